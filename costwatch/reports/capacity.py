"""The time of one's own devices that no call used, as charges of a bill: never what calls used, which is charged by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.capacity import CapacityCharge, Kind, capacity_charges
from costwatch.pricing.charges import Charge, Item
from costwatch.pricing.models import Meter

_CALLED = {Kind.IDLE: "idle", Kind.UNATTRIBUTED_BUSY: "busy for nobody"}


def capacity(organization: Organization, period: Period) -> list[Charge]:
    """By team, pool, device type, kind, method and price; the pool and the kind stand where a call's model does."""
    found: dict[tuple[Item, UnitPrice | None, bool], list[CapacityCharge]] = defaultdict(list)
    for charge in capacity_charges(organization, period):
        if charge.kind is not Kind.USAGE:
            found[_item(charge), charge.price, bool(charge.unpriced_ns)].append(charge)
    return [_sum(item, price, together) for (item, price, _), together in found.items()]


def _item(charge: CapacityCharge) -> Item:
    return Item(
        team_id=charge.team_id,
        provider="",
        model=f"pool {charge.pool}: {_CALLED[charge.kind]}",
        device_type=charge.device_type,
        service_tier="",
        feature="",
        meter=Meter.DEVICE_NS.value,
        method=charge.method,
    )


def _sum(item: Item, price: UnitPrice | None, together: Iterable[CapacityCharge]) -> Charge:
    """What several policies charge for."""
    rows = list(together)
    return Charge(
        item=item,
        price=price,
        calls=0,
        quantity=sum(row.device_ns for row in rows),
        unpriced_quantity=sum(row.unpriced_ns for row in rows),
        cost=money.total(row.cost for row in rows),
        price_cost=None
        if rows[0].price_cost is None
        else money.total(row.price_cost or Decimal(0) for row in rows),
    )
