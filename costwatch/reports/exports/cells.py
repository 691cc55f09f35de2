"""What stands in a cell of a file that a spreadsheet may open."""

from __future__ import annotations

from decimal import Decimal

# A spreadsheet runs a cell that begins like this as a formula; tags come from anybody who may send telemetry.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell(value: object) -> str:
    """Text that a spreadsheet shows and does not run; numbers are written out, unknown is empty."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return harmless(value) if isinstance(value, str) else str(value)


def harmless(text: str) -> str:
    """Text with a quote before it, where a spreadsheet would run it."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else f"{text}"
