"""An organization's months: which there are, where each stands, and which one is the next to be closed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Max, Min

from costwatch.accounts.models import Organization
from costwatch.attribution.models import CapacityHour, UsageHour
from costwatch.domain.periods import Period, month_of, name_of_month, next_month
from costwatch.reports.adjustments import in_force
from costwatch.reports.models import Closing, Month, State
from costwatch.reports.periods import month_asked


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a month stands. closing is None where none is in force."""

    name: str  # 2026-11
    period: Period
    state: State
    closing: Closing | None
    editions: int  # how often it was closed
    counts: bool  # has use, or was taken to review: months after it wait for its closing
    is_over: bool
    open_before: str  # the first month before it that counts and is not closed; empty: none

    @property
    def is_next(self) -> bool:
        """To be closed: corrections of the months before it will be frozen with it."""
        return self.closing is None and not self.open_before and (self.counts or not self.is_over)

    @property
    def was_reopened(self) -> bool:
        return self.editions > 0 and self.closing is None


def standings(organization: Organization, now: datetime) -> list[Standing]:
    """Every month from the first use to the present one, in order; none before anything was used or closed."""
    closings = {closing.month.name: closing for closing in in_force(organization)}
    rows = {
        name: (State(state), editions or 0)
        for name, state, editions in Month.objects.filter(organization=organization)
        .annotate(editions=Max("closings__edition"))
        .values_list("name", "state", "editions")
    }
    found: list[Standing] = []
    for name in _names(organization, now, rows.keys()):
        period = _period(organization, name, closings, found[-1] if found else None)
        state, editions = rows.get(name, (State.OPEN, 0))
        found.append(
            Standing(
                name=name,
                period=period,
                state=state,
                closing=closings.get(name),
                editions=editions,
                counts=state != State.OPEN or _is_used(organization, period),
                is_over=period.end <= now,
                open_before=next(
                    (one.name for one in found if one.counts and one.closing is None), ""
                ),
            )
        )
    return found


def standing_of(organization: Organization, name: str, now: datetime) -> Standing | None:
    """None for a month before the first use, or after the present one."""
    return next((one for one in standings(organization, now) if one.name == name), None)


def _names(organization: Organization, now: datetime, known: Iterable[str]) -> list[str]:
    zone = organization.time_zone
    hours = [
        table.objects.filter(organization=organization).aggregate(first=Min("hour"))["first"]
        for table in (UsageHour, CapacityHour)
    ]
    firsts = [*known, *(name_of_month(month_of(hour, zone), zone) for hour in hours if hour)]
    if not firsts:
        return []
    names, last = [min(firsts)], name_of_month(month_of(now, zone), zone)
    while names[-1] < last:
        names.append(name_of_month(next_month(month_asked(names[-1], zone), zone), zone))
    return names


def _period(
    organization: Organization, name: str, closings: dict[str, Closing], before: Standing | None
) -> Period:
    """A closed month keeps its hours. One after it begins where it ended, whatever the time zone is now."""
    if name in closings:
        return closings[name].period
    month = month_asked(name, organization.time_zone)
    if before is None or before.closing is None:
        return month
    return Period(before.period.end, month.end)


def _is_used(organization: Organization, period: Period) -> bool:
    """By calls, or by devices that were there for them: those cost when nobody calls, too."""
    within = {"organization": organization, "hour__gte": period.start, "hour__lt": period.end}
    return (
        UsageHour.objects.filter(calls__gt=0, **within).exists()
        or CapacityHour.objects.filter(wall_ns__gt=0, **within).exists()
    )
