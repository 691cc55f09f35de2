"""What was used and what it costs, by everything that a bill tells apart, at the very prices of costs().

What one price held for is one charge, so that quantity × unit price is its cost in the price's currency. A price row
that was cut in two, or written anew with the same amount, still is the same price. Hours without an exchange rate for
the price's currency are a charge of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.matching import tier_of
from costwatch.pricing.metered import PAYER, QUANTITY, metered


@dataclass(frozen=True, slots=True)
class Item:
    """What is charged for, and to whom. team_id None: unattributed."""

    team_id: int | None
    provider: str
    model: str
    device_type: str
    service_tier: str  # as prices know it; empty is standard
    feature: str
    meter: str
    method: str  # how device time was attributed: measured, shared, modelled; empty: it is not device time


@dataclass(frozen=True, slots=True)
class Charge:
    """Sums over what one price held for. Without a price or its exchange rate unpriced_quantity is the quantity, cost 0.

    price_cost   in the price's currency, where that is not the organization's; else None.
    """

    item: Item
    price: UnitPrice | None
    calls: int
    quantity: int
    unpriced_quantity: int
    cost: Decimal
    price_cost: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Charges:
    """A period's, in no order. What nobody counted is in unknown_usage_calls alone: its cost is not known."""

    charges: tuple[Charge, ...]
    unknown_usage_calls: dict[int | None, int]  # by team


_CHARGES = f"""
SELECT payer.team_id, offering.provider,
       coalesce(nullif(offering.response_model, ''), offering.request_model),
       offering.device_type, offering.service_tier, source.feature, metered.meter,
       offering.allocation_method, price.unit_price, price.unit_quantity, price.currency,
       sum(metered.calls), sum({QUANTITY}),
       sum(metered.unpriced_tokens + metered.unpriced_device_ns), sum(metered.cost),
       sum(metered.price_cost), sum(metered.unknown_usage_calls)
  FROM metered
  JOIN attribution_source AS source ON source.id = metered.source_id
  JOIN attribution_offering AS offering ON offering.id = metered.offering_id
  LEFT JOIN pricing_price AS price ON price.id = metered.price_id
  {PAYER}
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, metered.unrated
"""  # noqa: S608  only meters are put in


def charges(organization: Organization, period: Period) -> Charges:
    """In the organization's currency. Their costs sum to what costs() says, to the last digit."""
    hours = metered(organization, period, by_meter=True)
    with connection.cursor() as cursor:
        cursor.execute(hours.query + _CHARGES, hours.values)
        rows = cursor.fetchall()
    counted = [_charge(row, organization.currency) for row in rows if row[6] is not None]
    return Charges(tuple(_merged(counted)), _unknown(row for row in rows if row[6] is None))


def _charge(row: Sequence[Any], own_currency: str) -> Charge:
    team_id, provider, model, device_type, tier, feature, meter, method = row[:8]
    unit_price, unit_quantity, currency, calls, quantity, unpriced, cost, price_cost, _ = row[8:]
    return Charge(
        Item(team_id, provider, model, device_type, tier_of(tier), feature, meter, method),
        None if unit_price is None else UnitPrice(unit_price, unit_quantity, currency),
        int(calls),
        int(quantity),
        int(unpriced),
        cost,
        None if currency in (None, own_currency) else price_cost,
    )


def _merged(rows: Iterable[Charge]) -> Iterable[Charge]:
    """Tiers that a provider calls by several names are one."""
    found: dict[tuple[Item, UnitPrice | None, bool], Charge] = {}
    for row in rows:
        place = (row.item, row.price, bool(row.unpriced_quantity))
        found[place] = _together(found[place], row) if place in found else row
    return found.values()


def _together(one: Charge, other: Charge) -> Charge:
    return Charge(
        one.item,
        one.price,
        one.calls + other.calls,
        one.quantity + other.quantity,
        one.unpriced_quantity + other.unpriced_quantity,
        money.EXACT.add(one.cost, other.cost),
        None
        if one.price_cost is None or other.price_cost is None
        else money.EXACT.add(one.price_cost, other.price_cost),
    )


def _unknown(rows: Iterable[Sequence[Any]]) -> dict[int | None, int]:
    calls: dict[int | None, int] = {}
    for row in rows:
        calls[row[0]] = calls.get(row[0], 0) + int(row[16])
    return {team_id: count for team_id, count in calls.items() if count}
