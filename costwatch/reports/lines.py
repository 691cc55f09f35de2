"""The lines of a bill, of a month as it stands and of one that is frozen alike.

Line          one thing that a team pays for
charged       charges → lines, in the order of a bill; their costs are still exact
rounded       the same with amounts that add up to the cent: lines to teams, teams to the total
team_totals   what each team owes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from itertools import groupby

from costwatch.accounts.models import Organization, Team
from costwatch.domain import money
from costwatch.domain.pricing import PriceState
from costwatch.pricing.charges import Charge, Item
from costwatch.pricing.models import unit_label
from costwatch.reports.models import StatementLine

USAGE = StatementLine.Kind.USAGE.value
CAPACITY = StatementLine.Kind.CAPACITY.value
ADJUSTMENT = StatementLine.Kind.ADJUSTMENT.value
UNATTRIBUTED = "unattributed"


@dataclass(frozen=True, slots=True)
class Line:
    """What a team used of a model on one meter at one price. unit_price is None where it has none, or several.

    state says of a cost of zero whether it is free, or not known: unpriced_quantity is what no price was known for.
    Of an adjustment, quantities and costs are differences to what was frozen for the month `used_in`.
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
    state: str  # of PriceState
    exact_cost: Decimal
    cost: Decimal  # rounded so that the lines sum to the total
    kind: str  # of StatementLine.Kind
    used_in: str  # 2026-11
    cause: str  # of an adjustment: of StatementLine.Cause
    service_tier: str
    feature: str
    method: str  # measured, shared, modelled; empty: not device time
    unit_quantity: int | None  # that unit_price is for
    price_currency: str  # of unit_price and price_cost; empty without either
    price_cost: Decimal | None = (
        None  # in price_currency, exact; None: in no other currency than cost
    )

    @property
    def is_unpriced(self) -> bool:
        return self.state == PriceState.UNKNOWN


LINE_FIELDS = tuple(field.name for field in fields(Line))


@dataclass(frozen=True, slots=True)
class TeamTotal:
    team_id: int | None
    team: str
    cost_centre: str
    cost: Decimal
    statement_id: int | None = None  # None: nothing is frozen yet


class Names:
    """What an organization's teams are called now."""

    def __init__(self, organization: Organization) -> None:
        teams = Team.objects.filter(organization=organization)
        self._named = {
            pk: (name, centre)
            for pk, name, centre in teams.values_list("pk", "name", "cost_centre")
        }

    def of(self, team_id: int | None) -> tuple[str, str]:
        """Name and cost centre."""
        return (UNATTRIBUTED, "") if team_id is None else self._named[team_id]


def charged(
    used: Iterable[Charge], capacity: Iterable[Charge], names: Names, month: str
) -> list[Line]:
    """capacity   what one's own devices cost beside what calls used of them (see capacity.py)."""
    lines = [_line(charge, names, month, USAGE) for charge in used]
    lines += [_line(charge, names, month, CAPACITY) for charge in capacity]
    return sorted(lines, key=order)


def _line(charge: Charge, names: Names, month: str, kind: str) -> Line:
    return line_of(
        charge.item,
        names,
        kind=kind,
        used_in=month,
        calls=charge.calls,
        quantity=charge.quantity,
        unpriced_quantity=charge.unpriced_quantity,
        unit_price=charge.price.amount if charge.price else None,
        unit_quantity=charge.price.unit_quantity if charge.price else None,
        price_currency=charge.price.currency if charge.price else "",
        exact_cost=charge.cost,
        price_cost=charge.price_cost,
    )


def line_of(
    item: Item,
    names: Names,
    *,
    kind: str,
    used_in: str,
    calls: int,
    quantity: int,
    unpriced_quantity: int,
    unit_price: Decimal | None,
    unit_quantity: int | None,
    price_currency: str,
    exact_cost: Decimal,
    price_cost: Decimal | None,
    cause: str = "",
) -> Line:
    """Its cost is not rounded yet."""
    team, cost_centre = names.of(item.team_id)
    return Line(
        team_id=item.team_id,
        team=team,
        cost_centre=cost_centre,
        provider=item.provider,
        model=item.model,
        device_type=item.device_type,
        meter=item.meter,
        calls=calls,
        quantity=quantity,
        unpriced_quantity=unpriced_quantity,
        unit_price=unit_price,
        unit_label=unit_label(item.meter, unit_quantity) if unit_quantity else "",
        state=_state(unpriced_quantity, exact_cost),
        exact_cost=exact_cost,
        cost=exact_cost,
        kind=kind,
        used_in=used_in,
        cause=cause,
        service_tier=item.service_tier,
        feature=item.feature,
        method=item.method,
        unit_quantity=unit_quantity,
        price_currency=price_currency,
        price_cost=price_cost,
    )


def _state(unpriced: int, cost: Decimal) -> str:
    if unpriced > 0:
        return PriceState.UNKNOWN.value
    return (PriceState.KNOWN if cost else PriceState.FREE).value


def order(line: Line) -> tuple[object, ...]:
    """Teams by name, unattributed last; then what was used, then adjustments; the same for the same lines."""
    price = (line.unit_price is None, line.unit_price or Decimal(0), line.unit_quantity or 0)
    return (
        line.team_id is None,
        line.team,
        line.team_id or 0,
        line.kind == ADJUSTMENT,
        line.kind,
        line.used_in,
        line.provider,
        line.model,
        line.device_type,
        line.service_tier,
        line.feature,
        line.meter,
        line.method,
        *price,
        line.price_currency,
        line.is_unpriced,
    )


def by_team(lines: Iterable[Line]) -> Iterable[tuple[int | None, list[Line]]]:
    """lines   in order()."""
    for team_id, theirs in groupby(lines, key=lambda line: line.team_id):
        yield team_id, list(theirs)


def rounded(lines: Sequence[Line], places: int) -> list[Line]:
    """Lines sum to their team's amount, teams to the rounded total; nothing moves by a unit of the last place.

    lines   in order(), with exact costs.
    """
    teams = [theirs for _, theirs in by_team(lines)]
    owed = money.round_to_total(
        [money.total(line.exact_cost for line in theirs) for theirs in teams], places
    )
    return [
        replace(line, cost=amount)
        for theirs, whole in zip(teams, owed, strict=True)
        for line, amount in zip(
            theirs,
            money.apportioned([line.exact_cost for line in theirs], whole, places),
            strict=True,
        )
    ]


def team_totals(lines: Iterable[Line]) -> tuple[TeamTotal, ...]:
    """lines   in order(), rounded."""
    return tuple(
        TeamTotal(
            team_id,
            theirs[0].team,
            theirs[0].cost_centre,
            money.total(line.cost for line in theirs),
        )
        for team_id, theirs in by_team(lines)
    )


# What is hashed


def canonical(line: Line) -> bytes:
    """The one way to write a line down: a JSON list of its fields in order, decimals as text without exponents.

    The last field is left out where it is None, as in all lines that were signed before there was one.
    """
    said = [_plain(getattr(line, name)) for name in LINE_FIELDS]
    if line.price_cost is None:
        said.pop()
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _plain(value: object) -> object:
    return f"{value.normalize(money.EXACT):f}" if isinstance(value, Decimal) else value


def digest(header: Mapping[str, str], parts: Iterable[bytes]) -> str:
    """SHA-256, in hexadecimal."""
    sha = hashlib.sha256(json.dumps(dict(sorted(header.items())), ensure_ascii=False).encode())
    for part in parts:
        sha.update(part)
    return sha.hexdigest()
