"""What a request and a million tokens cost on one's own devices, and how busy they must be to beat an API's prices.

Of each model on each type of device:

    usage        what its calls' device time costs
    fully loaded usage × (the devices' bill / the usage of all models on them): idle time and what was busy for nobody
                 are carried by use, whoever pays for them by the pool's policy

Measured against an API model's prices (cached tokens at its price for them, where it has one):

    API cost                 Σ tokens × API price: what the same tokens would have cost there
    a million of a class     API price of the class × fully loaded / API cost: the classes cost in the API's proportions
    break-even utilization   utilization × fully loaded / API cost: the bill is the same however busy the devices are,
                             so cost per token falls as they get busier; above 1 they can't get busy enough
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from costwatch.accounts.models import Organization
from costwatch.attribution.models import TOKEN_METERS
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import TOKENS_PER_PRICE, UnitPrice
from costwatch.pricing.capacity import CapacityCharge, Kind
from costwatch.pricing.cost import CostRow, Dimension, costs
from costwatch.pricing.exchange import converted
from costwatch.pricing.models import Meter
from costwatch.pricing.rates import Sku
from costwatch.pricing.repricing import list_price

_EXACT = money.EXACT


@dataclass(frozen=True, slots=True)
class ApiComparison:
    """Beside an API model's prices. by_class: fully loaded, for a million tokens, by meter."""

    api_cost: Decimal
    by_class: Mapping[str, Decimal]
    break_even_utilization: Decimal | None  # None: nobody told of the devices' wall time


@dataclass(frozen=True, slots=True)
class UnitCost:
    """Exact costs in the organization's currency; None where there is nothing to divide by, or no price is known.

    tokens   by meter; of calls that said how many.
    """

    device_type: str
    model: str
    calls: int
    successful_calls: int
    tokens: Mapping[str, int]
    usage_cost: Decimal | None
    loaded_cost: Decimal | None
    utilization: Decimal | None  # used time / wall time of all devices of the type
    api: ApiComparison | None  # None: not asked for, or a price is missing

    @property
    def all_tokens(self) -> int:
        return sum(self.tokens.values())

    @property
    def per_request(self) -> Decimal | None:
        return _each(self.loaded_cost, self.calls)

    @property
    def per_successful_request(self) -> Decimal | None:
        return _each(self.loaded_cost, self.successful_calls)

    @property
    def per_million_tokens(self) -> Decimal | None:
        return _each(self.loaded_cost, self.all_tokens, TOKENS_PER_PRICE)

    @property
    def usage_per_million_tokens(self) -> Decimal | None:
        return _each(self.usage_cost, self.all_tokens, TOKENS_PER_PRICE)


def _each(cost: Decimal | None, count: int, unit: int = 1) -> Decimal | None:
    if cost is None or not count:
        return None
    return _EXACT.divide(_EXACT.multiply(cost, Decimal(unit)), Decimal(count))


@dataclass(frozen=True, slots=True)
class _Device:
    """A type's month: what its time cost and how much of it was used."""

    usage_cost: Decimal
    bill: Decimal
    used_ns: int
    wall_ns: int


def unit_costs(
    organization: Organization,
    period: Period,
    charges: Iterable[CapacityCharge],
    against: tuple[str, str] | None = None,
) -> list[UnitCost]:
    """By device type and model. charges: the period's; against: provider and model of an API."""
    devices = _devices(charges)
    prices = _prices(organization, against, period.end) if against else {}
    rows = costs(organization, period, group_by=[Dimension.DEVICE_TYPE, Dimension.MODEL])
    return [
        _unit_cost(row, devices[str(row.key[Dimension.DEVICE_TYPE])], prices)
        for row in rows
        if row.key[Dimension.DEVICE_TYPE] in devices and row.device_ns
    ]


def api_named(text: str) -> tuple[str, str] | None:
    """Provider and model of "openai/gpt-4o-mini"; None for anything else."""
    provider, _, model = text.partition("/")
    return (provider, model) if provider and model else None


def _devices(charges: Iterable[CapacityCharge]) -> dict[str, _Device]:
    by_type: dict[str, list[CapacityCharge]] = defaultdict(list)
    for charge in charges:
        by_type[charge.device_type].append(charge)
    return {device_type: _device(rows) for device_type, rows in by_type.items()}


def _device(rows: Iterable[CapacityCharge]) -> _Device:
    every = list(rows)
    usage = [row for row in every if row.kind is Kind.USAGE]
    return _Device(
        money.total(row.cost for row in usage),
        money.total(row.cost for row in every),
        sum(row.device_ns for row in usage),
        sum(row.device_ns for row in every),
    )


def _unit_cost(row: CostRow, device: _Device, prices: Mapping[str, UnitPrice]) -> UnitCost:
    tokens = {meter: getattr(row, meter) for meter in TOKEN_METERS}
    is_priced = not row.unpriced_device_ns
    loaded = (
        _EXACT.divide(_EXACT.multiply(row.cost, device.bill), device.usage_cost)
        if is_priced and device.usage_cost
        else None
    )
    utilization = (
        _EXACT.divide(Decimal(device.used_ns), Decimal(device.wall_ns)) if device.wall_ns else None
    )
    return UnitCost(
        device_type=str(row.key[Dimension.DEVICE_TYPE]),
        model=row.label[Dimension.MODEL],
        calls=row.calls,
        successful_calls=row.calls - row.failed_calls,
        tokens=tokens,
        usage_cost=row.cost if is_priced else None,
        loaded_cost=loaded,
        utilization=utilization,
        api=_compared(tokens, loaded, utilization, prices),
    )


def _compared(
    tokens: Mapping[str, int],
    loaded: Decimal | None,
    utilization: Decimal | None,
    prices: Mapping[str, UnitPrice],
) -> ApiComparison | None:
    used = {meter: count for meter, count in tokens.items() if count}
    if loaded is None or not used or any(meter not in prices for meter in used):
        return None
    api_cost = money.total(prices[meter].cost(count).amount for meter, count in used.items())
    if not api_cost:
        return None
    factor = _EXACT.divide(loaded, api_cost)
    million = {meter: prices[meter].cost(TOKENS_PER_PRICE).amount for meter in used}
    return ApiComparison(
        api_cost,
        {meter: _EXACT.multiply(amount, factor) for meter, amount in million.items()},
        None if utilization is None else _EXACT.multiply(utilization, factor),
    )


def _prices(
    organization: Organization, against: tuple[str, str], until: datetime
) -> dict[str, UnitPrice]:
    """The catalogue's, by meter, at the exchange rate of the period's end; none where there is no rate."""
    provider, model = against
    found = {meter: list_price(Sku(provider, model, meter)) for meter in TOKEN_METERS}
    listed = {meter: price.value for meter, price in found.items() if price is not None}
    prices = converted(organization, listed, until - timedelta(microseconds=1))
    if Meter.INPUT_TOKENS in prices:
        for meter in (Meter.CACHE_READ_INPUT_TOKENS, Meter.CACHE_WRITE_INPUT_TOKENS):
            prices.setdefault(meter, prices[Meter.INPUT_TOKENS])
    return prices
