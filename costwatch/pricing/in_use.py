"""What an organization used of each SKU, at which price: the other end of costs(), from the prices' side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import PriceState, state_of
from costwatch.pricing.cost import Filters, conditions
from costwatch.pricing.exchange import day_of
from costwatch.pricing.matching import tier_of
from costwatch.pricing.metered import PAYER, QUANTITY, metered
from costwatch.pricing.models import Price, unit_label
from costwatch.pricing.rates import Sku, device_sku

_USED = f"""
SELECT offering.provider, coalesce(nullif(offering.response_model, ''), offering.request_model),
       metered.meter, offering.service_tier, offering.device_type, metered.price_id, metered.unrated,
       sum(metered.calls), sum({QUANTITY}), sum(metered.cost), sum(metered.price_cost),
       min(metered.hour), max(metered.hour)
  FROM metered
  JOIN attribution_source AS source ON source.id = metered.source_id
  JOIN attribution_offering AS offering ON offering.id = metered.offering_id
  {PAYER}
 WHERE metered.meter IS NOT NULL AND {{where}}
 GROUP BY 1, 2, 3, 4, 5, 6, 7
"""  # noqa: S608  only meters are put in


@dataclass(frozen=True, slots=True)
class MissingRate:
    """What a price's cost is not known for want of: rates of the pair on UTC days from the first to the last."""

    base: str
    quote: str
    first: date
    last: date

    def __str__(self) -> str:
        days = f"{self.first} to {self.last}" if self.last > self.first else f"{self.first}"
        return f"no exchange rate {self.base} → {self.quote}, {days}"


@dataclass(frozen=True, slots=True)
class SkuUse:
    """A SKU as telemetry names it, and what was used of it at one price.

    Its cost is unknown, which is not free, where price is None, or missing_rate says what it lacks.
    """

    sku: Sku
    price: Price | None
    calls: int
    quantity: int
    cost: Decimal
    price_cost: Decimal  # in the price's currency
    missing_rate: MissingRate | None = None

    @property
    def state(self) -> PriceState:
        return state_of(None if self.price is None or self.missing_rate else self.price.unit_price)

    @property
    def is_known(self) -> bool:
        return self.state is not PriceState.UNKNOWN

    @property
    def meter(self) -> str:
        return self.sku.meter

    @property
    def unit(self) -> str:
        """What a price for it is per."""
        return unit_label(self.meter, self.sku.unit_quantity)

    @property
    def can_be_priced(self) -> bool:
        """What nobody named can't: the same model costs differently elsewhere."""
        return bool(self.sku.device_type or (self.sku.provider and self.sku.model))


def skus_used(
    organization: Organization, period: Period, filters: Filters | None = None
) -> list[SkuUse]:
    """Of unknown cost first, by quantity; then by cost. A SKU whose price changed is there for each.

    The costs sum to what costs() says with the same filters, to the last digit.
    """
    where, values = conditions(filters or Filters())
    hours = metered(organization, period, by_meter=True)
    with connection.cursor() as cursor:
        cursor.execute(
            hours.query + _USED.format(where=" AND ".join(where)), {**values, **hours.values}
        )
        rows = cursor.fetchall()
    prices = Price.objects.select_related("book", "approved_by").in_bulk(
        {row[5] for row in rows} - {None}
    )
    found = _together(_use(row, prices.get(row[5]), organization.currency) for row in rows)
    return sorted(found, key=_place)


def missing_rates(organization: Organization, period: Period) -> dict[str, MissingRate]:
    """What costs of a period are not known for want of, by the prices' currency."""
    found: dict[str, list[MissingRate]] = defaultdict(list)
    for use in skus_used(organization, period):
        if use.missing_rate:
            found[use.missing_rate.base].append(use.missing_rate)
    return {base: rate for base, each in found.items() if (rate := _missing(each))}


def _use(row: Sequence[Any], price: Price | None, own_currency: str) -> SkuUse:
    provider, model, meter, tier, device_type, _, unrated, calls, quantity, cost, price_cost = row[
        :-2
    ]
    sku = device_sku(device_type) if device_type else Sku(provider, model, meter, tier_of(tier))
    missing = None
    if unrated and price is not None:
        missing = MissingRate(price.currency, own_currency, *map(day_of, row[-2:]))
    return SkuUse(sku, price, int(calls), int(quantity), cost, price_cost, missing)


def _together(uses: Iterable[SkuUse]) -> Iterable[SkuUse]:
    """Names of one tier are one SKU, and so are all models on one type of device."""
    found: dict[tuple[Sku, int | None, bool], list[SkuUse]] = defaultdict(list)
    for use in uses:
        found[use.sku, use.price.pk if use.price else None, use.missing_rate is None].append(use)
    for (sku, _, _), each in found.items():
        yield SkuUse(
            sku,
            each[0].price,
            sum(use.calls for use in each),
            sum(use.quantity for use in each),
            money.total(use.cost for use in each),
            money.total(use.price_cost for use in each),
            _missing(use.missing_rate for use in each),
        )


def _missing(rates: Iterable[MissingRate | None]) -> MissingRate | None:
    known = [rate for rate in rates if rate is not None]
    if not known:
        return None
    first, last = min(rate.first for rate in known), max(rate.last for rate in known)
    return MissingRate(known[0].base, known[0].quote, first, last)


def _place(use: SkuUse) -> tuple[Any, ...]:
    sku = use.sku
    names = (sku.provider, sku.model, sku.device_type, sku.meter, sku.service_tier)
    return use.is_known, -use.cost, -use.quantity, names
