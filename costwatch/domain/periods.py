"""Periods of time: aware, half open, and in somebody's time zone, also over a change to summer time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Period:
    """From start, included, to end, excluded; kept in UTC. Raises ValueError for naive or reversed edges."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for edge in (self.start, self.end):
            if edge.tzinfo is None:
                raise ValueError(
                    f"{edge.isoformat()}: expected a time with its zone, such as +00:00"
                )
        if self.start >= self.end:
            raise ValueError(
                f"{self.start.isoformat()} to {self.end.isoformat()}: expected the start before the end"
            )
        object.__setattr__(self, "start", self.start.astimezone(UTC))
        object.__setattr__(self, "end", self.end.astimezone(UTC))

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def dates(self, time_zone: str) -> list[date]:
        """The days that the period touches, as they are called in the time zone."""
        zone = ZoneInfo(time_zone)
        first = self.start.astimezone(zone).date()
        last = (self.end - timedelta(microseconds=1)).astimezone(zone).date()
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]

    def days(self, time_zone: str) -> Iterator[Period]:
        """The period cut at the time zone's midnights; the days of a change to or from summer time are 23 and 25 hours."""
        for day in self.dates(time_zone):
            whole = day_of(day, time_zone)
            yield Period(max(whole.start, self.start), min(whole.end, self.end))


def day_of(day: date | datetime, time_zone: str) -> Period:
    """The whole day in the time zone; of a moment, the day that it falls on there."""
    first = _date(day, time_zone)
    return Period(_midnight(first, time_zone), _midnight(first + timedelta(days=1), time_zone))


def week_of(day: date | datetime, time_zone: str, starts_on: int = 1) -> Period:
    """The seven days in the time zone that begin at a weekday: 1 is Monday, 7 is Sunday."""
    _expect(starts_on, 7)
    there = _date(day, time_zone)
    first = there - timedelta(days=(there.isoweekday() - starts_on) % 7)
    return Period(_midnight(first, time_zone), _midnight(first + timedelta(days=7), time_zone))


def month_of(day: date | datetime, time_zone: str, starts_on: int = 1) -> Period:
    """The whole month in the time zone; of a moment, the month that it falls in there.

    starts_on   its first day, 1 to 28; 1 is the calendar month.
    """
    return _months(_first_day(day, time_zone, starts_on), 1, time_zone)


def quarter_of(day: date | datetime, time_zone: str, starts_on: int = 1) -> Period:
    """Three months in the time zone, from that day of January, April, July or October on."""
    first = _first_day(day, time_zone, starts_on)
    return _months(_later(first, -((first.month - 1) % 3)), 3, time_zone)


def title_of(period: Period, time_zone: str) -> str:
    """For people: a day, a calendar month or quarter by its name, else the first and the last day."""
    days = period.dates(time_zone)
    first, last = days[0], days[-1]
    for name, whole in (
        (f"{first.day} {first:%B %Y}", day_of(first, time_zone)),
        (f"{first:%B %Y}", month_of(first, time_zone)),
        (f"Q{(first.month + 2) // 3} {first.year}", quarter_of(first, time_zone)),
    ):
        if whole == period:
            return name
    return f"{first.day} {first:%B %Y} to {last.day} {last:%B %Y}"


def next_month(month: Period, time_zone: str) -> Period:
    return month_of(month.end, time_zone)


def previous_month(month: Period, time_zone: str) -> Period:
    return month_of(month.start - timedelta(microseconds=1), time_zone)


def name_of_month(month: Period, time_zone: str) -> str:
    return f"{month.start.astimezone(ZoneInfo(time_zone)):%Y-%m}"


def hour_of(moment: datetime) -> datetime:
    """The whole UTC hour in which a moment lies: what rollups, prices and rules are cut at."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def expect_hour(moment: datetime | None) -> None:
    """Raises ValueError for what is no whole hour; None is without a beginning or an end."""
    if moment is not None and moment != hour_of(moment):
        raise ValueError(f"{moment.isoformat()}: expected a whole hour, such as 09:00")


def _first_day(day: date | datetime, time_zone: str, starts_on: int) -> date:
    _expect(starts_on, 28)  # what every month has
    there = _date(day, time_zone)
    first = there.replace(day=starts_on)
    return first if first <= there else _later(first, -1)


def _months(first: date, months: int, time_zone: str) -> Period:
    return Period(_midnight(first, time_zone), _midnight(_later(first, months), time_zone))


def _later(first: date, months: int) -> date:
    years, month = divmod(first.month - 1 + months, 12)
    return first.replace(year=first.year + years, month=month + 1)


def _expect(starts_on: int, last: int) -> None:
    if not 1 <= starts_on <= last:
        raise ValueError(f"first day {starts_on}: expected 1 to {last}")


def _date(day: date | datetime, time_zone: str) -> date:
    if not isinstance(day, datetime):
        return day
    if day.tzinfo is None:
        raise ValueError(f"{day.isoformat()}: expected a time with its zone, such as +00:00")
    return day.astimezone(ZoneInfo(time_zone)).date()


def _midnight(day: date, time_zone: str) -> datetime:
    # Where a change to summer time skips midnight, this is the moment of the change: no second is lost or doubled.
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
