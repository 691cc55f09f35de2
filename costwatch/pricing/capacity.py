"""What one's own devices cost, whoever used them or nobody did: each pool's bill, charged to the last digit.

Of each pool, device type and hour (docs/cost-of-idle-gpus.md):

    usage               what costs() says for the device time of the calls that began in it
    unattributed_busy   what the devices were busy for and no call used: loading, warm-up, work without telemetry
    idle                what they were not busy

The last two are carried by whom the pool's policy names. Together the three are the bill: the wall time at the hour's
price, and at its day's exchange rate where the price is in another currency. Where calls used more than any device told of, the bill is what they used.

Calls say which type of device they ran on, not which device. Where several pools have devices of a type in the same
hour, use goes to them in proportion to what their devices told of as used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.attribution.models import CapacityHour
from costwatch.domain.exchange import RATE_PLACES
from costwatch.domain.idle import (
    HourUse,
    Payer,
    Rest,
    Use,
    rests_of,
    split,
    use_of,
    weights,
)
from costwatch.domain.money import EXACT
from costwatch.domain.periods import Period, month_of
from costwatch.domain.pricing import (
    CONVERTED_PLACES,
    COST_PLACES,
    Ranged,
    UnitPrice,
    at,
    shortened,
)
from costwatch.pricing.device_prices import device_prices
from costwatch.pricing.exchange import Exchange, exchange_in
from costwatch.pricing.metered import PAYER, metered
from costwatch.pricing.pools import Held, Pools


class Kind(StrEnum):
    USAGE = "usage"
    IDLE = "idle"
    UNATTRIBUTED_BUSY = "unattributed_busy"


@dataclass(frozen=True, slots=True)
class CapacityCharge:
    """What a team is charged for of a pool's devices of one type, in the organization's currency, exactly.

    unpriced_ns   is of hours without a price, which are not in cost.
    method        how it is known: measured, or modelled where runtimes said only when calls ran; of usage shared, too.
    policy        that this was charged by; empty: it is usage.
    price         that held; None: it is usage, which may have several, or no price is known.
    price_cost    in the price's currency, where that is not the organization's; else None.
    """

    pool_id: int | None  # None: the default pool
    pool: str
    device_type: str
    team_id: int | None  # None: unattributed, or the platform's
    kind: Kind
    method: str
    policy: str
    price: UnitPrice | None
    device_ns: int
    unpriced_ns: int
    cost: Decimal
    price_cost: Decimal | None


@dataclass(slots=True)
class _Used:
    """By one team in one way; cost is in the price's currency, in units of the last of COST_PLACES."""

    device_ns: int = 0
    unpriced_ns: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class _HourPrice:
    """What a device's hour cost, and what its currency was worth in units of the last of RATE_PLACES; 0: unknown."""

    price: UnitPrice | None
    rate: int

    @property
    def is_known(self) -> bool:
        return self.rate > 0


@dataclass(slots=True)
class _Hour:
    """Of a pool's devices of one type."""

    wall_ns: int = 0
    attributed_ns: int = 0
    idle_ns: int = 0
    modelled_ns: int = 0
    used: dict[tuple[Payer, str], _Used] = field(default_factory=dict)  # by team and method

    def use(self) -> dict[Payer, int]:
        found: dict[Payer, int] = {}
        for (payer, _), one in self.used.items():
            found[payer] = found.get(payer, 0) + one.device_ns
        return found


_Group = tuple[int | None, str]  # pool and device type
_Hours = dict[datetime, _Hour]
# Pool, device type, who is charged, for what, method, policy, price, and whether its exchange rate is known.
_Key = tuple[int | None, str, Payer, Kind, str, str, UnitPrice | None, bool]


@dataclass(slots=True)
class _Sums:
    """cost is in the organization's currency, in units of the last of CONVERTED_PLACES."""

    device_ns: int = 0
    unpriced_ns: int = 0
    price_cost: int = 0
    cost: int = 0

    def add(self, one: _Used, rate: int) -> None:
        self.device_ns += one.device_ns
        self.unpriced_ns += one.unpriced_ns
        self.price_cost += one.cost
        self.cost += one.cost * rate


class _Prices(dict[tuple[str, datetime], _HourPrice]):
    """What device types cost, by hour."""

    def __init__(
        self, prices: Mapping[str, Sequence[Ranged[UnitPrice]]], exchange: Exchange
    ) -> None:
        self._prices = prices
        self._exchange = exchange

    def __missing__(self, key: tuple[str, datetime]) -> _HourPrice:
        device_type, hour = key
        price = at(self._prices[device_type], hour)
        rate = None if price is None else self._exchange.at(price.currency, hour)
        scaled = 0 if rate is None else int(EXACT.scaleb(rate, RATE_PLACES))
        self[key] = _HourPrice(price, scaled)
        return self[key]


class _Moments(dict[int, datetime]):
    """Moments by their seconds since 1970: a month has few hours, and a row for each team in each."""

    def __missing__(self, epoch: int) -> datetime:
        self[epoch] = datetime.fromtimestamp(epoch, UTC)
        return self[epoch]


_USED = f"""
SELECT extract(epoch FROM metered.hour)::bigint, offering.device_type, payer.team_id, offering.allocation_method,
       sum(metered.device_ns), sum(metered.unpriced_device_ns), sum(metered.cost)
  FROM metered
  JOIN attribution_offering AS offering ON offering.id = metered.offering_id AND offering.device_type <> ''
  {PAYER}
 GROUP BY 1, 2, 3, 4
"""  # noqa: S608  only a join is put in


def capacity_charges(
    organization: Organization, period: Period, pools: Pools | None = None
) -> list[CapacityCharge]:
    """By pool, device type, team, kind, method, policy and price, in their order.

    pools   None: as they are set up now.

    The charges of usage sum to what costs() says for these devices; all of a pool's, to its bill.
    """
    pools = pools or Pools(organization)
    sums: dict[_Key, _Sums] = defaultdict(_Sums)
    for month in _months(organization, period):
        groups, prices = _hours(organization, month, pools)
        for (pool_id, device_type), hours in groups.items():
            for hour, key, one in _of_group(pools, pool_id, device_type, hours, prices):
                if hour in period:
                    sums[key].add(one, prices[device_type, hour].rate)
    own = organization.currency
    return [_charge(pools, key, sums[key], own) for key in sorted(sums, key=_order)]


def _months(organization: Organization, period: Period) -> Iterator[Period]:
    """The whole months that the period touches: policies look at a month's use."""
    month = month_of(period.start, organization.time_zone)
    while month.start < period.end:
        yield month
        month = month_of(month.end, organization.time_zone)


# What was told and what was used, by pool and device type


def _hours(
    organization: Organization, month: Period, pools: Pools
) -> tuple[dict[_Group, _Hours], _Prices]:
    groups: dict[_Group, _Hours] = defaultdict(dict)
    there = _told(organization, month, pools, groups)
    hours = _Moments()
    rows = _rows(organization, month)
    prices = _prices(organization, month, {*(key[1] for key in groups), *(row[1] for row in rows)})
    for epoch, device_type, payer, method, ns, unpriced_ns, cost in rows:
        hour = hours[epoch]
        rate = prices[device_type, hour].rate
        one = _Used(int(ns), int(unpriced_ns), _in_its_currency(cost, rate))
        ids = there.get((hour, device_type)) or {pools.of(device_type, "", hour)}
        for pool_id, part in _parts(one, groups, hour, device_type, ids):
            known = groups[pool_id, device_type].setdefault(hour, _Hour())
            _add(known.used.setdefault((payer, method), _Used()), part)
    return groups, prices


def _prices(organization: Organization, month: Period, device_types: Collection[str]) -> _Prices:
    prices = device_prices(organization, device_types)
    currencies = {one.value.currency for ranges in prices.values() for one in ranges}
    return _Prices(prices, exchange_in(organization, currencies, month))


def _told(
    organization: Organization, month: Period, pools: Pools, groups: dict[_Group, _Hours]
) -> Mapping[tuple[datetime, str], set[int | None]]:
    """Add what devices told to groups; returns which pools had devices of a type in an hour."""
    there: dict[tuple[datetime, str], set[int | None]] = defaultdict(set)
    rows = CapacityHour.objects.filter(
        organization=organization, hour__gte=month.start, hour__lt=month.end
    )
    columns = ("wall_ns", "attributed_ns", "idle_ns", "modelled_ns")
    for hour, device_type, device_id, *ns in rows.values_list(
        "hour", "device_type", "device_id", *columns
    ):
        pool_id = pools.of(device_type, device_id, hour)
        there[hour, device_type].add(pool_id)
        known = groups[pool_id, device_type].setdefault(hour, _Hour())
        for name, value in zip(columns, ns, strict=True):
            setattr(known, name, getattr(known, name) + value)
    return there


def _rows(organization: Organization, month: Period) -> list[tuple[Any, ...]]:
    hours = metered(organization, month)
    with connection.cursor() as cursor:
        cursor.execute(hours.query + _USED, hours.values)
        return list(cursor.fetchall())


def _parts(
    one: _Used,
    groups: Mapping[_Group, _Hours],
    hour: datetime,
    device_type: str,
    ids: Iterable[int | None],
) -> Iterable[tuple[int | None, _Used]]:
    """Which pool how much of a use goes to."""
    pool_ids = list(ids)
    if len(pool_ids) == 1:
        return [(pool_ids[0], one)]
    told = {pool_id: groups[pool_id, device_type][hour] for pool_id in pool_ids}
    by = {pool_id: known.attributed_ns for pool_id, known in told.items()}
    if not any(by.values()):
        by = {pool_id: max(1, known.wall_ns) for pool_id, known in told.items()}
    ns, unpriced_ns, cost = (split(n, by) for n in (one.device_ns, one.unpriced_ns, one.cost))
    return [(pool_id, _Used(ns[pool_id], unpriced_ns[pool_id], cost[pool_id])) for pool_id in by]


# Charging


def _of_group(
    pools: Pools,
    pool_id: int | None,
    device_type: str,
    hours: _Hours,
    prices: _Prices,
) -> Iterator[tuple[datetime, _Key, _Used]]:
    in_order = sorted(hours.items())
    uses = [known.use() for _, known in in_order]
    month = use_of(uses)
    rests = rests_of(
        HourUse(known.wall_ns, known.idle_ns, sum(use.values()))
        for (_, known), use in zip(in_order, uses, strict=True)
    )
    for (hour, known), use, rest in zip(in_order, uses, rests, strict=True):
        for (payer, method), one in known.used.items():
            yield hour, (pool_id, device_type, payer, Kind.USAGE, method, "", None, True), one
        if rest.ns:
            held, price = pools.policy(pool_id, hour), prices[device_type, hour]
            method = "modelled" if known.modelled_ns else "measured"
            how = (method, held.policy.value, price.price, price.is_known)
            for payer, kind, one in _carried(known, use, rest, month, held, price):
                yield hour, (pool_id, device_type, payer, kind, *how), one


def _carried(
    known: _Hour,
    use: Mapping[Payer, int],
    rest: Rest,
    month: Use,
    held: Held,
    price: _HourPrice,
) -> Iterator[tuple[Payer, Kind, _Used]]:
    by = weights(held.policy, known.wall_ns, use, month, held.reserved_percent)
    parts = {Kind.IDLE: rest.idle_ns, Kind.UNATTRIBUTED_BUSY: rest.unattributed_ns}
    costs = _rest_costs(known, use, rest, price)
    for kind, ns in parts.items():
        if not ns and not costs[kind]:
            continue
        cost_of = split(costs[kind], by)
        for payer, theirs_ns in split(ns, by).items():
            if theirs_ns or cost_of[payer]:
                unpriced_ns = 0 if price.is_known else theirs_ns
                yield payer, kind, _Used(theirs_ns, unpriced_ns, cost_of[payer])


def _rest_costs(
    known: _Hour, use: Mapping[Payer, int], rest: Rest, price: _HourPrice
) -> Mapping[Kind, int]:
    """The bill less what the calls were charged, whose costs are rounded each: so the sum is the bill, not about it."""
    left = _left(known, use, rest, price)
    idle = left * rest.idle_ns // rest.ns
    return {Kind.IDLE: idle, Kind.UNATTRIBUTED_BUSY: left - idle}


def _left(known: _Hour, use: Mapping[Payer, int], rest: Rest, price: _HourPrice) -> int:
    if price.price is None:
        return 0
    if not price.is_known:  # what calls used was charged nothing then
        return _units(price.price.cost(rest.ns).amount)
    bill = _units(price.price.cost(sum(use.values()) + rest.ns).amount)
    return max(0, bill - sum(one.cost for one in known.used.values()))


def _units(cost: Decimal) -> int:
    """A cost of COST_PLACES in units of the last one."""
    return int(EXACT.scaleb(cost, COST_PLACES))


def _in_its_currency(cost: Decimal, rate: int) -> int:
    """A cost in the organization's currency as what it is in the price's, in units: it was that, times the rate."""
    return int(EXACT.scaleb(cost, CONVERTED_PLACES)) // rate if rate else 0


def _add(sums: _Used, one: _Used) -> None:
    sums.device_ns += one.device_ns
    sums.unpriced_ns += one.unpriced_ns
    sums.cost += one.cost


def _charge(pools: Pools, key: _Key, sums: _Sums, own_currency: str) -> CapacityCharge:
    pool_id, device_type, team_id, kind, method, policy, price, _ = key
    is_foreign = price is not None and price.currency != own_currency
    return CapacityCharge(
        pool_id,
        pools.names[pool_id],
        device_type,
        team_id,
        kind,
        method,
        policy,
        price,
        sums.device_ns,
        sums.unpriced_ns,
        shortened(EXACT.scaleb(Decimal(sums.cost), -CONVERTED_PLACES)),
        EXACT.scaleb(Decimal(sums.price_cost), -COST_PLACES) if is_foreign else None,
    )


def _order(key: _Key) -> tuple[object, ...]:
    pool_id, device_type, team_id, kind, method, policy, price, is_known = key
    return (
        *(pool_id is not None, pool_id or 0, device_type),
        *(team_id is None, team_id or 0, kind, method, policy, str(price), is_known),
    )
