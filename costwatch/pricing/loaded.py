"""Usage beside fully loaded cost of one's own devices; both ways of looking sum to the pools' bills.

bills    what each pool's devices of a type cost
loads    what each team's calls used of them, and what the team carries of the rest
moved    what another policy would charge each team, beside what it is charged now
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from costwatch.accounts.models import Organization, Team
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.pricing.capacity import CapacityCharge, Kind, capacity_charges
from costwatch.pricing.pools import Held, Pools


@dataclass(frozen=True, slots=True)
class Load:
    """Exact costs; what has no price is in unpriced_ns and in none of them. method is modelled where any of it is."""

    device_ns: int  # carried time included
    usage_ns: int
    usage_cost: Decimal
    idle_cost: Decimal
    unattributed_busy_cost: Decimal
    unpriced_ns: int
    method: str

    @property
    def carried_cost(self) -> Decimal:
        return money.EXACT.add(self.idle_cost, self.unattributed_busy_cost)

    @property
    def loaded_cost(self) -> Decimal:
        return money.EXACT.add(self.usage_cost, self.carried_cost)


@dataclass(frozen=True, slots=True)
class PoolBill:
    pool_id: int | None
    pool: str
    device_type: str
    load: Load


@dataclass(frozen=True, slots=True)
class TeamLoad:
    team_id: int | None
    team: str
    pool_id: int | None
    pool: str
    device_type: str
    load: Load


@dataclass(frozen=True, slots=True)
class MovedLoad:
    team_id: int | None
    team: str
    before: Decimal
    after: Decimal

    @property
    def difference(self) -> Decimal:
        return money.EXACT.subtract(self.after, self.before)


def bills(charges: Iterable[CapacityCharge]) -> list[PoolBill]:
    found: dict[tuple[int | None, str, str], list[CapacityCharge]] = defaultdict(list)
    for charge in charges:
        found[charge.pool_id, charge.pool, charge.device_type].append(charge)
    return [PoolBill(*key, _load(rows)) for key, rows in found.items()]


def loads(organization: Organization, charges: Iterable[CapacityCharge]) -> list[TeamLoad]:
    """By team's name, what nobody's team pays last."""
    names = _names(organization)
    found: dict[tuple[int | None, int | None, str, str], list[CapacityCharge]] = defaultdict(list)
    for charge in charges:
        found[charge.team_id, charge.pool_id, charge.pool, charge.device_type].append(charge)
    rows = [TeamLoad(key[0], names[key[0]], *key[1:], _load(rows)) for key, rows in found.items()]
    return sorted(rows, key=lambda row: (row.team_id is None, row.team, row.pool, row.device_type))


def moved(
    organization: Organization,
    period: Period,
    pool_id: int | None,
    held: Held,
    valid_from: datetime | None,
) -> list[MovedLoad]:
    """By team, those whose charges a policy from an hour on would change; it is not saved. They sum to nothing."""
    pools = Pools(organization)
    before = _by_team(capacity_charges(organization, period, pools))
    changed = pools.with_policy(pool_id, held, valid_from)
    after = _by_team(capacity_charges(organization, period, changed))
    names = _names(organization)
    rows = [
        MovedLoad(team, names[team], before.get(team, Decimal(0)), after.get(team, Decimal(0)))
        for team in before | after
    ]
    return sorted(
        (row for row in rows if row.difference), key=lambda row: (row.team_id is None, row.team)
    )


def _load(charges: Iterable[CapacityCharge]) -> Load:
    rows = list(charges)
    costs = {kind: money.total(row.cost for row in rows if row.kind is kind) for kind in Kind}
    return Load(
        device_ns=sum(row.device_ns for row in rows),
        usage_ns=sum(row.device_ns for row in rows if row.kind is Kind.USAGE),
        usage_cost=costs[Kind.USAGE],
        idle_cost=costs[Kind.IDLE],
        unattributed_busy_cost=costs[Kind.UNATTRIBUTED_BUSY],
        unpriced_ns=sum(row.unpriced_ns for row in rows),
        method="modelled" if any(row.method == "modelled" for row in rows) else "measured",
    )


def _by_team(charges: Iterable[CapacityCharge]) -> dict[int | None, Decimal]:
    found: dict[int | None, Decimal] = {}
    for charge in charges:
        before = found.get(charge.team_id, Decimal(0))
        found[charge.team_id] = money.EXACT.add(before, charge.cost)
    return found


def _names(organization: Organization) -> dict[int | None, str]:
    teams = Team.objects.filter(organization=organization).values_list("pk", "name")
    return {None: "unattributed", **dict(teams)}
