"""Days of UTC that people and programs ask for, read from text: in them providers bill."""

from __future__ import annotations

from datetime import date

from costwatch.reports.periods import within_reach

MOST_DAYS = 100


def days_asked(first: str, last: str) -> tuple[date, date]:
    """Both included. Raises ValueError."""
    start, end = _day(first), _day(last)
    if start > end:
        raise ValueError(f"{first!r} is after {last!r}: expected the first day, then the last")
    if (end - start).days >= MOST_DAYS:
        raise ValueError(f"from {first!r} to {last!r}: expected at most {MOST_DAYS} days")
    return start, end


def _day(text: str) -> date:
    try:
        if len(text) != len("2026-11-01"):
            raise ValueError
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r}: expected a day of UTC, such as 2026-11-01") from None
    within_reach(day, text)
    return day
