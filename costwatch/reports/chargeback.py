"""What each team owes for a month: lines that add up to the cent to what is shown as their total.

Of a closed month they are read from what is frozen; of another one they are computed as they stand now, with the
adjustments to earlier months that would be frozen with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period, name_of_month
from costwatch.pricing.charges import charges
from costwatch.reports.adjustments import in_force, pending
from costwatch.reports.capacity import capacity
from costwatch.reports.frozen import FrozenLines, frozen_lines, frozen_totals
from costwatch.reports.lines import (
    ADJUSTMENT,
    Line,
    Names,
    TeamTotal,
    charged,
    order,
    rounded,
    team_totals,
)
from costwatch.reports.models import Closing, State
from costwatch.reports.months import Standing, standing_of


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A month of an organization. Amounts are in its currency. sha256 is empty where nothing is frozen."""

    organization_id: int
    organization: str
    month: str  # 2026-11
    period: Period
    currency: str
    state: str  # of State
    edition: int  # of its closing, from 1 on; 0: it is not closed
    sha256: str
    lines: Collection[
        Line
    ]  # in order of team; can be walked through again, and may be too many to hold
    teams: tuple[TeamTotal, ...]  # sums of the teams' lines, unattributed included
    total: Decimal
    unattributed: Decimal
    unpriced_lines: int  # lines that hold usage without a known price: the total lacks them
    unknown_usage_calls: int  # of which nobody said how much they used
    places: int
    periods: Mapping[str, Period]  # of the months that adjustments are to, by name


def chargeback(organization: Organization, month: Period, places: int | None = None) -> Chargeback:
    """Lines per team × feature × model × meter × price, and per team × pool of one's own devices.

    month    of the organization's time zone (domain/periods.py).
    places   of amounts, of a month that is not closed; None: as the currency has them.
    """
    name = name_of_month(month, organization.time_zone)
    standing = standing_of(organization, name, timezone.now())
    if standing is not None and standing.closing is not None:
        return frozen(standing.closing)
    return _as_it_stands(
        organization, name, standing, standing.period if standing else month, places
    )


def current(organization: Organization, standing: Standing) -> Chargeback:
    """As it stands now: of a month that is not closed what closing it would freeze."""
    return _as_it_stands(organization, standing.name, standing, standing.period, None)


def frozen(closing: Closing) -> Chargeback:
    """As it was closed; closing need not be in force any more."""
    return Chargeback(
        organization_id=closing.organization_id,
        organization=closing.organization_name,
        month=closing.month.name,
        period=closing.period,
        currency=closing.currency,
        state=State.CLOSED.value,
        edition=closing.edition,
        sha256=closing.sha256,
        lines=frozen_lines(closing),
        teams=frozen_totals(closing),
        total=money.rounded(closing.cost, closing.places),
        unattributed=money.rounded(closing.unattributed, closing.places),
        unpriced_lines=closing.unpriced_lines,
        unknown_usage_calls=closing.unknown_usage_calls,
        places=closing.places,
        periods={
            name: Period(*map(datetime.fromisoformat, edges))
            for name, edges in closing.adjusted.items()
        },
    )


def of_team(report: Chargeback, team_id: int | None) -> Chargeback:
    """Only what one team owes; None: what nobody pays."""
    lines = _of_team(report.lines, team_id)
    teams = tuple(team for team in report.teams if team.team_id == team_id)
    return replace(
        report,
        lines=lines,
        teams=teams,
        total=_sum((team.cost for team in teams), report.places),
        unattributed=_sum((team.cost for team in teams if team.team_id is None), report.places),
        unpriced_lines=_unpriced(lines),
    )


def adjustments(report: Chargeback) -> Collection[Line]:
    """Those to earlier months."""
    if isinstance(report.lines, FrozenLines):
        return report.lines.adjustments()
    return [line for line in report.lines if line.kind == ADJUSTMENT]


def _of_team(lines: Collection[Line], team_id: int | None) -> Collection[Line]:
    if isinstance(lines, FrozenLines):
        return lines.of_team(team_id)
    return [line for line in lines if line.team_id == team_id]


def _unpriced(lines: Collection[Line]) -> int:
    if isinstance(lines, FrozenLines):
        return lines.unpriced()
    return sum(line.is_unpriced for line in lines)


def _as_it_stands(
    organization: Organization,
    name: str,
    standing: Standing | None,
    period: Period,
    places: int | None,
) -> Chargeback:
    if places is None:
        places = money.places_of(organization.currency)
    used = charges(organization, period)
    lines = charged(used.charges, capacity(organization, period), Names(organization), name)
    if standing is not None and standing.is_next:
        lines = sorted([*lines, *pending(organization, name)], key=order)
    billed = rounded(lines, places)
    return Chargeback(
        organization_id=organization.pk,
        organization=organization.name,
        month=name,
        period=period,
        currency=organization.currency,
        state=(standing.state if standing else State.OPEN).value,
        edition=0,
        sha256="",
        lines=tuple(billed),
        teams=team_totals(billed),
        total=_sum((line.cost for line in billed), places),
        unattributed=_sum((line.cost for line in billed if line.team_id is None), places),
        unpriced_lines=sum(line.is_unpriced for line in billed),
        unknown_usage_calls=sum(used.unknown_usage_calls.values()),
        places=places,
        periods=_periods(organization, {line.used_in for line in billed} - {name}),
    )


def _periods(organization: Organization, names: Collection[str]) -> dict[str, Period]:
    closings = in_force(organization).filter(month__name__in=names)
    return {closing.month.name: closing.period for closing in closings}


def _sum(amounts: Iterable[Decimal], places: int) -> Decimal:
    """Of amounts that are rounded; of none too it has its places."""
    return money.rounded(money.total(amounts), places)
