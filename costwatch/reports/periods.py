"""The times that people and programs ask for, read from text: the one place, for pages and API.

What is read here lies within years that neither a time zone's hours nor a month's neighbours lead out of the calendar.
"""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

from costwatch.domain.periods import Period, day_of, month_of, name_of_month, previous_month

FIRST_YEAR, LAST_YEAR = 2000, 2200


def within_reach(day: date, said: str) -> None:
    """Raises ValueError, with what was said, for a day (or moment) of a year that nothing is reported of."""
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"{said!r}: expected a year from {FIRST_YEAR} to {LAST_YEAR}")


def month_asked(name: str, time_zone: str) -> Period:
    """The month that is written 2026-11. Raises ValueError."""
    try:
        first = date.fromisoformat(f"{name}-01")
    except ValueError:
        raise ValueError(f"month {name!r}: expected year and month, such as 2026-11") from None
    within_reach(first, name)
    return month_of(first, time_zone)


def name_of_month_before(month: Period, time_zone: str) -> str:
    """As month_asked() reads it; empty for the first one that can be asked for."""
    name = name_of_month(previous_month(month, time_zone), time_zone)
    return name if int(name.split("-")[0]) >= FIRST_YEAR else ""


def moment_asked(text: str, time_zone: str) -> datetime:
    """The first moment of a date in the time zone, or a time; without a zone of its own it has that one.

    Raises ValueError.
    """
    day_only = len(text) == len("2026-11-01")
    try:
        # A + that was not encoded arrives as a space.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise ValueError(
            f"{text!r}: expected a date such as 2026-11-01 or a time such as 2026-11-01T09:00:00Z"
        ) from None
    within_reach(moment, text)
    if day_only:
        return day_of(moment.date(), time_zone).start
    return moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(time_zone))
