"""Which month a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period, month_of, name_of_month, next_month
from costwatch.reports.periods import month_asked, name_of_month_before


@dataclass(frozen=True, slots=True)
class Month:
    """A month in the organization's time zone, with its neighbours by name; following is empty in the current one."""

    period: Period
    name: str
    title: str
    previous: str  # empty: none before it can be shown
    following: str
    now: datetime

    @property
    def is_current(self) -> bool:
        return self.now in self.period

    @property
    def seen(self) -> Period:
        """What of it has passed."""
        return Period(self.period.start, min(self.now, self.period.end))


def month_shown(request: HttpRequest, organization: Organization) -> Month:
    """The month that ?month=2026-11 names, else this one. Raises BadRequest for what is no month, or one to come."""
    return month_named(request.GET.get("month", ""), organization)


def month_named(name: str, organization: Organization) -> Month:
    """As month_shown()."""
    zone = organization.time_zone
    now = timezone.now()
    current = month_of(now, zone)
    try:
        period = month_asked(name, zone) if name else current
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if period.start > now:
        raise BadRequest(f"month {name!r} has not begun")
    following = "" if period == current else name_of_month(next_month(period, zone), zone)
    return Month(
        period,
        name_of_month(period, zone),
        f"{period.start.astimezone(ZoneInfo(zone)):%B %Y}",
        name_of_month_before(period, zone),
        following,
        now,
    )
