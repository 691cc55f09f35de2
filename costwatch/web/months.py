"""Which month a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from django.http import Http404, HttpRequest
from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.domain.periods import (
    Period,
    month_named,
    month_of,
    name_of_month,
    next_month,
    previous_month,
)


@dataclass(frozen=True, slots=True)
class Month:
    """A month in the organization's time zone, with its neighbours by name; following is empty in the current one."""

    period: Period
    name: str
    title: str
    previous: str
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
    """The month that ?month=2026-11 names, else this one. Raises Http404 for what is no month, or one to come."""
    zone = organization.time_zone
    now = timezone.now()
    current = month_of(now, zone)
    try:
        period = month_named(request.GET["month"], zone) if request.GET.get("month") else current
    except ValueError as error:
        raise Http404(str(error)) from None
    if period.start > now:
        raise Http404(f"month {request.GET['month']!r} has not begun")
    following = "" if period == current else name_of_month(next_month(period, zone), zone)
    return Month(
        period,
        name_of_month(period, zone),
        f"{period.start.astimezone(ZoneInfo(zone)):%B %Y}",
        name_of_month(previous_month(period, zone), zone),
        following,
        now,
    )
