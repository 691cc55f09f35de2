"""Chargeback as CSV (RFC 4180, UTF-8) for a spreadsheet or a finance system."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal

from costwatch.reports.chargeback import Chargeback, Line

CONTENT_TYPE = "text/csv; charset=utf-8"

_LINE_FIELDS = tuple(f.name for f in fields(Line) if f.name != "team_id")
HEADER = ("organization", "month", "currency", *_LINE_FIELDS)

# A spreadsheet runs a cell that begins like this as a formula; tags come from anybody who may send telemetry.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class _Echo:
    """What csv.writer writes to: it gives back each row instead of keeping it."""

    def write(self, row: str) -> str:
        return row


def rows(chargeback: Chargeback) -> Iterator[str]:
    """The header and one row a line, one at a time, so that a long month needs no memory."""
    writer = csv.writer(_Echo())
    yield str(writer.writerow(HEADER))
    about = (chargeback.organization, chargeback.month, chargeback.currency)
    for line in chargeback.lines:
        values = (*about, *(getattr(line, name) for name in _LINE_FIELDS))
        yield str(writer.writerow([cell(value) for value in values]))


def cell(value: object) -> str:
    """Text that a spreadsheet shows and does not run; numbers are written out, unknown is empty."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return f"{value:f}"
    text = str(value)
    if isinstance(value, str) and text.lstrip(" ").startswith(_FORMULA_STARTS):
        return f"'{text}"
    return text
