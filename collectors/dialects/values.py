"""Attribute values, read as what the table says that they are; None where a value is not that.

Instrumentations send counts as floats, flags as "False" and ids as numbers: what means the same reads the same.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue

Read = Callable[[AnyValue], Any]

MAX_NATURAL = (
    10**15
)  # 11 days in nanoseconds; thousands of them in one hour still fit into a sum of 63 bits
MAX_TEXT_CHARACTERS = (
    256  # an id or a name; a longer one is somebody's mistake, and would fill indexes
)
_WRITTEN_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(s|ms|µs|ns)", re.ASCII)
_UNIT_NS = {"s": 10**9, "ms": 10**6, "µs": 10**3, "ns": 1}
_FLAGS = {"true": True, "false": False}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def plain(value: AnyValue) -> Any:
    """The Python value of an attribute; lists become lists, maps and bytes are not read and come back as None."""
    which = value.WhichOneof("value")
    if which == "array_value":
        return [plain(item) for item in value.array_value.values]
    if which is None or which in ("kvlist_value", "bytes_value"):
        return None
    return getattr(value, which)


def text(value: AnyValue) -> str | None:
    """A name or an id. Empty is as good as none: some libraries send '' for what they do not know."""
    found = value.string_value
    if not found:
        return _number_as_text(value)
    if found.isprintable() and len(found) <= MAX_TEXT_CHARACTERS:
        return found
    return clean(found)


def clean(found: str) -> str | None:
    """A text that any database takes: bounded, without NUL and other control characters."""
    shown = "".join(c for c in found[:MAX_TEXT_CHARACTERS] if c.isprintable()).strip()
    return shown or None


def _number_as_text(value: AnyValue) -> str | None:
    found = plain(value)
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else None


def whole_text(value: AnyValue) -> str | None:
    """A text of any length, to be parsed and dropped."""
    return value.string_value or None


def unquoted(value: AnyValue) -> str | None:
    """A name or an id that may stand in quotes, as JSON writes texts."""
    found = text(value)
    if found is not None and len(found) > 1 and found[0] == found[-1] == '"':
        return clean(found[1:-1])
    return found


def moment(value: AnyValue) -> int | None:
    """A moment in ISO 8601 as nanoseconds since 1970; None where it does not say in which zone."""
    try:
        found = datetime.fromisoformat(value.string_value.strip('"'))
        return (found - _EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, TypeError, OverflowError):
        return None


def texts(value: AnyValue) -> list[str] | None:
    found = plain(value)
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else None


def integer(value: AnyValue) -> int | None:
    """A count. A whole float and a text of digits are one; anything else is None, not 0."""
    found: int = value.int_value
    return found or _other_integer(value)


def _other_integer(value: AnyValue) -> int | None:
    found = plain(value)
    if isinstance(found, bool):
        return None
    if isinstance(found, float):
        return int(found) if found.is_integer() else None
    if isinstance(found, str):
        return int(found) if found.isascii() and found.isdigit() and len(found) < 20 else None
    return found if isinstance(found, int) else None


def natural(value: AnyValue) -> int | None:
    """A time, an energy or a count that only our own runtime writes: out of its range it is garbage, and unknown."""
    found = integer(value)
    return found if found is not None and 0 <= found <= MAX_NATURAL else None


def seconds_as_ns(value: AnyValue) -> int | None:
    return _scaled(value, 1e9)


def milliseconds_as_ns(value: AnyValue) -> int | None:
    return _scaled(value, 1e6)


def written_duration_as_ns(value: AnyValue) -> int | None:
    """A duration as Rust writes one for people: 1.25s, 830.5ms, 12µs, 800ns."""
    found = _WRITTEN_DURATION.fullmatch(value.string_value)
    if found is None:
        return None
    number, unit = found.groups()
    return round(Decimal(number) * _UNIT_NS[unit])


def _scaled(value: AnyValue, factor: float) -> int | None:
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    # Bounded to a century, which also keeps NaN and infinity out.
    return round(found * factor) if 0 <= found * factor < 3e18 else None


def flag(value: AnyValue) -> bool | None:
    found = plain(value)
    return (
        _FLAGS.get(found.lower())
        if isinstance(found, str)
        else found
        if isinstance(found, bool)
        else None
    )
