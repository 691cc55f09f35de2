"""Which price holds for what an organization uses: the projection that costs are computed from.

A contracted price comes before a list price, hour by hour. Offerings of one's own machines (device_type set) are
priced by device time alone, never as tokens of a provider.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from costwatch.attribution.models import TOKEN_METERS, Offering
from costwatch.domain.pricing import NS_PER_HOUR, TOKENS_PER_PRICE, Ranged, overlaid
from costwatch.pricing import matching
from costwatch.pricing.models import Meter, Price, PriceBook, Rate, RateBuild


@dataclass(frozen=True, slots=True)
class Sku:
    """What a price is of, in lower case: people and telemetry do not agree on capitals."""

    provider: str
    model: str
    meter: str
    service_tier: str = ""
    device_type: str = ""

    @property
    def unit_quantity(self) -> int:
        """What an amount is for where nobody says otherwise: a device-hour, or 1,000,000 tokens."""
        return NS_PER_HOUR if self.meter == Meter.DEVICE_NS else TOKENS_PER_PRICE


def device_sku(device_type: str) -> Sku:
    return Sku("", "", Meter.DEVICE_NS, device_type=device_type)


def sku_named(provider: str, model: str, meter: str, service_tier: str, device_type: str) -> Sku:
    """Of a provider's tokens, or of one's own devices. Raises ValueError for neither, or something of both."""
    of_tokens = (provider, model, meter)
    if device_type and not any((*of_tokens, service_tier)):
        return device_sku(device_type)
    if all(of_tokens) and not device_type:
        return Sku(provider, model, meter, matching.tier_of(service_tier))
    raise ValueError("expected either provider, model and meter, or device_type")


def refresh(organization_id: int) -> int:
    """Build an organization's rates anew; returns how many there are.

    Safe to run twice and beside itself: the second waits for the first, and finds its work done.
    """
    with transaction.atomic():
        _lock(organization_id)
        offerings = list(Offering.objects.filter(organization_id=organization_id))
        named = {sku for each in offerings for meter in Meter.values for sku in skus(each, meter)}
        prices = _prices(organization_id, named)
        wanted = [rate for offering in offerings for rate in _rates(offering, prices)]
        _write(organization_id, wanted)
        RateBuild.objects.update_or_create(
            organization_id=organization_id,
            defaults={"offerings": len(offerings), "built_at": timezone.now()},
        )
    return len(wanted)


def refresh_if_new(organization_id: int) -> bool:
    """Build the rates if there are offerings that they do not know."""
    if not is_pending(organization_id):
        return False
    refresh(organization_id)
    return True


def is_pending(organization_id: int) -> bool:
    """Whether there are offerings that the rates do not know yet: two small counts.

    Usage shows as soon as it is added up; a worker looks the prices of what is new in it up right after that. In
    between, its cost is not known, but nobody may say that it has no price.
    """
    built = RateBuild.objects.filter(organization_id=organization_id).first()
    offerings = Offering.objects.filter(organization_id=organization_id).count()
    return built is None or built.offerings != offerings


def refresh_all() -> None:
    """After the catalogue changed."""
    ids = Offering.objects.order_by("organization_id").values_list("organization_id", flat=True)
    for organization_id in ids.distinct():
        refresh(organization_id)


def skus(offering: Offering, meter: str) -> list[Sku]:
    """Under which names an offering's meter may have a price, the most specific first. Empty: it has none to have."""
    if offering.device_type:
        if meter != Meter.DEVICE_NS:
            return []
        return [device_sku(offering.device_type.lower())]
    if meter == Meter.DEVICE_NS:
        return []
    tier = matching.tier_of(offering.service_tier)
    names = matching.names_of(offering.provider, offering.response_model, offering.request_model)
    return [Sku(provider, model, meter, tier) for provider, model in names]


_Prices = dict[tuple[str, Sku], list[Ranged[Price]]]


def prices_held(organization_id: int, wanted: Collection[Sku]) -> dict[Sku, list[Ranged[Price]]]:
    """The timeline of each SKU (in lower case), as rates have it: contracted prices before list prices."""
    prices = _prices(organization_id, wanted)
    return {sku: overlaid(*_layers([sku], prices)) for sku in wanted}


def _prices(organization_id: int, wanted: Collection[Sku]) -> _Prices:
    """The prices that may hold for the SKUs, by kind of book and SKU."""
    books = Q(book__organization=None) | Q(book__organization_id=organization_id)
    found: _Prices = defaultdict(list)
    rows = (
        Price.objects.filter(books)
        .annotate(lower_model=Lower("model"))
        .filter(lower_model__in={sku.model for sku in wanted})
        .select_related("book")
    )
    for price in rows:
        sku = Sku(
            price.provider.lower(),
            price.model.lower(),
            price.meter,
            price.service_tier,
            price.device_type.lower(),
        )
        if sku in wanted:
            found[price.book.kind, sku].append(Ranged(price.valid_from, price.valid_until, price))
    return found


def _rates(offering: Offering, prices: _Prices) -> list[Rate]:
    meters = [Meter.DEVICE_NS] if offering.device_type else TOKEN_METERS
    return [
        Rate(
            organization_id=offering.organization_id,
            offering=offering,
            meter=meter,
            price=held.value,
            valid_from=held.valid_from,
            valid_until=held.valid_until,
        )
        for meter in meters
        for held in overlaid(*_layers(skus(offering, meter), prices))
    ]


def _layers(named: Sequence[Sku], prices: _Prices) -> list[list[Ranged[Price]]]:
    return [
        # Two books of a kind, or two spellings, may both have the SKU: the older row comes first.
        overlaid(*([one] for one in sorted(prices[kind, sku], key=lambda r: r.value.pk)))
        for kind in (PriceBook.Kind.CONTRACTED, PriceBook.Kind.LIST)
        for sku in named
        if (kind, sku) in prices
    ]


def _write(organization_id: int, wanted: Sequence[Rate]) -> None:
    """Only what differs is written, so that a refresh that changes nothing costs nothing."""
    kept = {
        _identity(rate): rate.pk for rate in Rate.objects.filter(organization_id=organization_id)
    }
    new = {_identity(rate): rate for rate in wanted}
    gone = [pk for identity, pk in kept.items() if identity not in new]
    Rate.objects.filter(pk__in=gone).delete()
    Rate.objects.bulk_create(rate for identity, rate in new.items() if identity not in kept)


def _identity(rate: Rate) -> tuple[Any, ...]:
    edges: tuple[datetime | None, datetime | None] = (rate.valid_from, rate.valid_until)
    return (rate.offering_id, rate.meter, rate.price_id, *edges)


def _lock(organization_id: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('rates'), %s)", [organization_id])
