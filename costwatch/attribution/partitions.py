"""The days of the tables that grow with calls."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from functools import lru_cache

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg import sql

TABLES = ("attribution_span", "attribution_entry", "attribution_content")

_PARTITIONS = """
SELECT relname::text
  FROM pg_inherits
  JOIN pg_class ON pg_class.oid = pg_inherits.inhrelid
 WHERE pg_inherits.inhparent = %s::regclass AND relname < %s
 ORDER BY relname
"""
_DROP_WAIT = "2s"  # whoever writes to the table waits as long


def ensure_days(days: Iterable[date]) -> None:
    """Make the partitions of these days where they are missing.

    Called before the transaction that writes: a new partition is its own, short transaction, so that nobody waits
    for it behind a body of telemetry.
    """
    for day in sorted(set(days)):
        _ensure_day(day)


def days_between(first: datetime, last: datetime) -> list[date]:
    """The UTC days that an interval touches, both ends included."""
    return [first.date() + timedelta(days=n) for n in range((last.date() - first.date()).days + 1)]


@lru_cache(maxsize=4096)
def _ensure_day(day: date) -> None:
    for table in TABLES:
        name = f"{table}_{day:%Y%m%d}"
        with transaction.atomic(), connection.cursor() as cursor:
            # One maker at a time: two that race would both find it missing.
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtext('partition'), hashtext(%s))", [name]
            )
            cursor.execute("SELECT to_regclass(%s)", [name])
            if cursor.fetchone()[0] is None:
                _make(cursor, table, name, day)


def _make(cursor: CursorWrapper, table: str, name: str, day: date) -> None:
    # LIKE and ATTACH instead of PARTITION OF: it lets others go on writing to the table.
    parts = {
        "name": sql.Identifier(name),
        "table": sql.Identifier(table),
        "start": sql.Literal(f"{day} 00:00:00+00"),
        "end": sql.Literal(f"{day + timedelta(days=1)} 00:00:00+00"),
    }
    cursor.execute(
        sql.SQL(
            "CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        ).format(**parts)
    )
    cursor.execute(
        sql.SQL(
            "ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})"
        ).format(**parts)
    )


def drop_before(table: str, day: date) -> None:
    """Drop the partitions of the days before this one. Nobody may come to need them again: see _ensure_day.

    Raises django.db.OperationalError where somebody uses one of them for long.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PARTITIONS, [table, f"{table}_{day:%Y%m%d}"])
        old = [name for (name,) in cursor.fetchall()]
    for name in old:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = %s", [_DROP_WAIT])
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))


def forget_made() -> None:
    """For tests, which roll back or drop what was made."""
    _ensure_day.cache_clear()
