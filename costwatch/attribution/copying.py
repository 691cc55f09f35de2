"""Values as text for Postgres: what COPY and arrays read, which spares an object per value.

Ids are 16 bytes and moments microseconds since 1970 on this side; hours are since 1970, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from django.db import connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def copy_in(statement: str, rows: str) -> None:
    """Write rows with this COPY. Raises django.db.DatabaseError, which psycopg's own copying does not."""
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        copy.write(rows)


def array(keys: Iterable[bytes]) -> str:
    """Ids as a Postgres array."""
    return "{" + ",".join(map(bytes.hex, set(keys))) + "}"


def between(first_micros: int, last_micros: int, *names: str) -> dict[str, str]:
    return dict(zip(names, (moment(first_micros), moment(last_micros)), strict=True))


def moment(micros: int) -> str:
    """A moment as Postgres reads it."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}+00"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"


def micros_of(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def datetime_of(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def datetime_of_hour(hour: int) -> datetime:
    return _EPOCH + timedelta(hours=hour)


def hours_of(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(hours=1)


def line(values: tuple[object, ...]) -> str:
    """Numbers, truth values and texts that need no escaping, as COPY reads them, with tabs between."""
    return (_format(len(values)) % values).replace("None", "\\N")


@lru_cache(maxsize=64)
def _format(width: int) -> str:
    return "\t".join(["%s"] * width)


def text(said: str | None) -> str:
    if not said:
        return "\\N"
    # Decoded texts are printable: nothing but a backslash means anything to COPY.
    return said.replace("\\", "\\\\") if said.isprintable() else _escaped(said)


def as_json(said: Mapping[str, str] | None) -> str:
    return _escaped(json.dumps(said)) if said else "\\N"


def _escaped(said: str) -> str:
    return said.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
