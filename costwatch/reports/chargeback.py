"""What each team owes for a month: lines that add up to the cent to what is shown as their total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from costwatch.accounts.models import Organization, Team
from costwatch.domain import money
from costwatch.domain.periods import Period, name_of_month
from costwatch.domain.pricing import PriceState
from costwatch.pricing.cost import CostRow, Dimension, costs
from costwatch.pricing.models import Price

_BY = (
    Dimension.TEAM,
    Dimension.PROVIDER,
    Dimension.MODEL,
    Dimension.DEVICE_TYPE,
    Dimension.METER,
)


@dataclass(frozen=True, slots=True)
class Line:
    """What a team used of a model on one meter. unit_price is None where several prices held, or none.

    state says of a cost of zero whether it is free, or not known: unpriced_quantity is what no price was known for.
    """

    team_id: int | None  # None: unattributed
    team: str
    cost_centre: str
    provider: str
    model: str
    device_type: str
    meter: str
    calls: int
    quantity: int
    unpriced_quantity: int
    unit_price: Decimal | None
    unit_label: str
    state: PriceState
    exact_cost: Decimal
    cost: Decimal  # rounded so that the lines sum to the total


@dataclass(frozen=True, slots=True)
class TeamTotal:
    team_id: int | None
    team: str
    cost_centre: str
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Chargeback:
    """A month of an organization as it stands now; nothing is frozen. Amounts are in its currency."""

    organization: str
    month: str  # 2026-11
    period: Period
    currency: str
    lines: tuple[Line, ...]
    teams: tuple[TeamTotal, ...]  # sums of the teams' lines, unattributed included
    total: Decimal
    unattributed: Decimal
    unpriced_lines: int  # lines that hold usage without a known price: the total lacks them


def chargeback(organization: Organization, month: Period, places: int = 2) -> Chargeback:
    """Lines per team × model × meter, in order of team, provider and model.

    month   of the organization's time zone (domain/periods.py).
    """
    rows = [
        row
        for row in costs(organization, month, group_by=_BY)
        if row.key[Dimension.METER] is not None
    ]
    rounded = money.round_to_total([row.cost for row in rows], places)
    lines = _lines(organization, rows, rounded)
    return Chargeback(
        organization=organization.name,
        month=name_of_month(month, organization.time_zone),
        period=month,
        currency=organization.currency,
        lines=lines,
        teams=_teams(lines),
        total=money.total(line.cost for line in lines),
        unattributed=money.total(line.cost for line in lines if line.team_id is None),
        unpriced_lines=sum(1 for line in lines if line.state is PriceState.UNKNOWN),
    )


def _lines(
    organization: Organization, rows: Sequence[CostRow], rounded: Sequence[Decimal]
) -> tuple[Line, ...]:
    prices = Price.objects.in_bulk({row.price_id for row in rows if row.price_id is not None})
    teams = Team.objects.filter(organization=organization)
    cost_centres = dict(teams.values_list("pk", "cost_centre"))
    lines = [
        _line(row, amount, prices.get(row.price_id or 0), cost_centres)
        for row, amount in zip(rows, rounded, strict=True)
    ]
    return tuple(sorted(lines, key=_order))


def _order(line: Line) -> tuple[bool, str, str, str, str, str]:
    return (
        line.team_id is None,  # last
        line.team,
        line.provider,
        line.model,
        line.device_type,
        line.meter,
    )


def _line(row: CostRow, amount: Decimal, price: Price | None, cost_centres: dict[int, str]) -> Line:
    meter = str(row.key[Dimension.METER])
    team_id = row.key[Dimension.TEAM]
    unpriced = row.unpriced_tokens + row.unpriced_device_ns
    single = price if not unpriced else None
    return Line(
        team_id=team_id if isinstance(team_id, int) else None,
        team=row.label[Dimension.TEAM],
        cost_centre=cost_centres.get(team_id, "") if isinstance(team_id, int) else "",
        provider=str(row.key[Dimension.PROVIDER]),
        model=str(row.key[Dimension.MODEL]),
        device_type=str(row.key[Dimension.DEVICE_TYPE]),
        meter=meter,
        calls=row.calls,
        quantity=getattr(row, meter),
        unpriced_quantity=unpriced,
        unit_price=single.unit_price if single else None,
        unit_label=single.unit_label if single else "",
        state=_state(row, unpriced),
        exact_cost=row.cost,
        cost=amount,
    )


def _state(row: CostRow, unpriced: int) -> PriceState:
    if unpriced:
        return PriceState.UNKNOWN
    return PriceState.KNOWN if row.cost else PriceState.FREE


def _teams(lines: Sequence[Line]) -> tuple[TeamTotal, ...]:
    by_team: dict[int | None, list[Line]] = {}
    for line in lines:
        by_team.setdefault(line.team_id, []).append(line)
    return tuple(
        TeamTotal(
            team_id,
            theirs[0].team,
            theirs[0].cost_centre,
            money.total(line.cost for line in theirs),
        )
        for team_id, theirs in by_team.items()
    )
