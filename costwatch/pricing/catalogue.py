"""The shared list prices, from the package genai-prices.

Its data are models with prices per unit, some from a date on, some for a service tier. What it says about a meter that
we count becomes a price row with its range; what we cannot say faithfully is left out, which shows as unknown:
prices that change with the time of day, and tiers before the date from which the package knows them. Where the price
of a meter depends on the length of the prompt, the base price is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from importlib.metadata import version
from itertools import pairwise
from typing import Any

from django.db import transaction
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint

from costwatch.domain.pricing import TOKENS_PER_PRICE
from costwatch.pricing.models import Meter, Price, PriceBook

BOOK = "catalogue"
CURRENCY = "USD"  # all that the package knows
_PLACES = Decimal(1).scaleb(-12)  # takes the noise of floats off, such as 0.18000000000000002

# Which of the package's prices is a meter's. Where a model has none for its cache, cached tokens cost what input
# costs: that is how the package itself counts them.
_PRICE_KEYS = {
    Meter.INPUT_TOKENS: ("input_mtok",),
    Meter.CACHE_READ_INPUT_TOKENS: ("cache_read_mtok", "input_mtok"),
    Meter.CACHE_WRITE_INPUT_TOKENS: ("cache_write_mtok", "input_mtok"),
    Meter.OUTPUT_TOKENS: ("output_mtok",),
}
# The tiers that telemetry names, as conditions of the package's price variants.
_TIERS = {
    "batch": {"processing": "batch"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast"},
}


@dataclass(frozen=True, slots=True)
class ListPrice:
    """A row of the catalogue, before it is one."""

    provider: str
    model: str
    meter: str
    service_tier: str
    unit_price: Decimal
    valid_from: datetime | None
    valid_until: datetime | None

    @property
    def sku(self) -> tuple[str, str, str, str]:
        return self.provider, self.model, self.meter, self.service_tier


@dataclass(frozen=True, slots=True)
class Imported:
    prices: int  # in the catalogue now, of what the package lists
    added: int
    removed: int  # replaced by what was added, or withdrawn by the package
    left_out: int  # models whose prices change with the time of day


@transaction.atomic
def import_catalogue() -> Imported:
    """Bring the shared price book to what the installed package says; the second time changes nothing.

    SKUs that the package no longer lists keep their prices: history needs them. Rates are refreshed by the caller.
    """
    book, _ = PriceBook.objects.get_or_create(
        organization=None, kind=PriceBook.Kind.LIST, name=BOOK
    )
    PriceBook.objects.select_for_update().get(pk=book.pk)
    listed = dict.fromkeys(list_prices())
    skus = {price.sku for price in listed}
    kept = {price: row.pk for row in book.prices.all() if (price := _as_listed(row)).sku in skus}
    gone = [pk for price, pk in kept.items() if price not in listed]
    new = [price for price in listed if price not in kept]
    book.prices.filter(pk__in=gone).delete()
    book.prices.bulk_create((_row(book, price) for price in new), batch_size=2_000)
    return Imported(len(listed), len(new), len(gone), sum(1 for _ in _by_time_of_day()))


def list_prices() -> Iterator[ListPrice]:
    """All that the package lists on meters that we count."""
    for provider in get_snapshot().providers:
        seen: set[str] = set()
        for model in provider.models:
            # The package matches the first of two entries with one id.
            if model.id not in seen and not _changes_with_time_of_day(model):
                seen.add(model.id)
                yield from _standard(provider.id, model)
                yield from _tiers(provider.id, model)


def _standard(provider: str, model: ModelInfo) -> Iterator[ListPrice]:
    for meter in _PRICE_KEYS:
        steps = [(start, _amount(prices, meter)) for start, prices in _dated(model)]
        yield from _ranges(provider, model.id, meter, "", steps)


def _tiers(provider: str, model: ModelInfo) -> Iterator[ListPrice]:
    """A tier's own prices, from when the package knows them; what a tier leaves out costs as ever."""
    variants = model.price_variants or []
    for tier, condition in _TIERS.items():
        starts = {_start(v.constraint) for v in variants if v.when == condition}
        if not starts:
            continue
        first = None if None in starts else min(s for s in starts if s is not None)
        edges = {*starts, *(start for start, _ in _dated(model))}
        later = sorted(e for e in edges if e is not None and (first is None or e > first))
        for meter in _PRICE_KEYS:
            steps = [
                (edge, _amount(_at(model, edge, condition), meter)) for edge in [first, *later]
            ]
            yield from _ranges(provider, model.id, meter, tier, steps)


def _at(model: ModelInfo, moment: datetime | None, condition: dict[str, str]) -> ModelPrice:
    # Long before any date that the package knows stands for "always was".
    return model.get_prices(moment or datetime(2000, 1, 1, tzinfo=UTC), condition)


def _ranges(
    provider: str,
    model: str,
    meter: str,
    tier: str,
    steps: Sequence[tuple[datetime | None, Decimal | None]],
) -> Iterator[ListPrice]:
    """Steps are starts in order with the price from then on. Neighbours with one price become one range."""
    joined = [steps[0]]
    joined += [step for before, step in pairwise(steps) if step[1] != before[1]]
    ends = [start for start, _ in joined[1:]]
    for (start, amount), end in zip(joined, [*ends, None], strict=True):
        if amount is not None:
            yield ListPrice(provider, model, meter, tier, amount, start, end)


def _dated(model: ModelInfo) -> list[tuple[datetime | None, ModelPrice]]:
    """The standard prices in order of their first moment; the first one always was."""
    if isinstance(model.prices, ModelPrice):
        return [(None, model.prices)]
    if not model.prices:
        return []
    # The last of two that start together wins, as in the package.
    starts = {_start(conditional.constraint): None for conditional in model.prices}
    dated = sorted(start for start in starts if start is not None)
    return [(start, _at(model, start, {})) for start in [None, *dated]]


def _start(constraint: object) -> datetime | None:
    if not isinstance(constraint, StartDateConstraint):
        return None
    return datetime.combine(constraint.start_date, time(), UTC)


def _amount(prices: ModelPrice, meter: str) -> Decimal | None:
    for key in _PRICE_KEYS[Meter(meter)]:
        price: Any = getattr(prices, key)
        if price is not None:
            return Decimal(getattr(price, "base", price)).quantize(_PLACES)
    return None


def _changes_with_time_of_day(model: ModelInfo) -> bool:
    if isinstance(model.prices, ModelPrice):
        return False
    conditional: Iterable[ConditionalPrice] = model.prices
    return any(
        c.constraint is not None and not isinstance(c.constraint, StartDateConstraint)
        for c in conditional
    )


def _by_time_of_day() -> Iterator[ModelInfo]:
    for provider in get_snapshot().providers:
        yield from (model for model in provider.models if _changes_with_time_of_day(model))


def _as_listed(row: Price) -> ListPrice:
    return ListPrice(
        row.provider,
        row.model,
        row.meter,
        row.service_tier,
        row.unit_price,
        row.valid_from,
        row.valid_until,
    )


def _row(book: PriceBook, price: ListPrice) -> Price:
    return Price(
        book=book,
        provider=price.provider,
        model=price.model,
        meter=price.meter,
        service_tier=price.service_tier,
        unit_price=price.unit_price,
        unit_quantity=TOKENS_PER_PRICE,
        currency=CURRENCY,
        valid_from=price.valid_from,
        valid_until=price.valid_until,
        source=f"genai-prices {version('genai-prices')}",
    )
