"""What an organization's own devices cost by the hour, also those that no call ever used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from django.db.models import Q
from django.db.models.functions import Lower

from costwatch.accounts.models import Organization, User
from costwatch.domain.device_price import Bought, Rented
from costwatch.domain.pricing import Ranged, UnitPrice, overlaid
from costwatch.pricing.models import Meter, Price, PriceBook
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku


def device_prices(
    organization: Organization, device_types: Collection[str]
) -> Mapping[str, Sequence[Ranged[UnitPrice]]]:
    """By device type, the very prices that rates.py chooses: contracted before list, in the organization's currency."""
    books = Q(book__organization=None) | Q(book__organization=organization)
    rows = (
        Price.objects.filter(books, meter=Meter.DEVICE_NS)
        .annotate(lower_type=Lower("device_type"))
        .filter(lower_type__in={name.lower() for name in device_types})
        .select_related("book")
        .order_by("pk")
    )
    found: dict[tuple[str, str], list[Ranged[Price]]] = defaultdict(list)
    for row in rows:
        ranged: Ranged[Price] = Ranged(row.valid_from, row.valid_until, row)
        found[row.device_type.lower(), row.book.kind].append(ranged)
    return {
        name: [
            Ranged(one.valid_from, one.valid_until, one.value.value)
            for one in overlaid(*([row] for row in _layers(found, name.lower())))
            if one.value.currency == organization.currency
        ]
        for name in device_types
    }


def _layers(found: Mapping[tuple[str, str], list[Ranged[Price]]], name: str) -> list[Ranged[Price]]:
    kinds = (PriceBook.Kind.CONTRACTED.value, PriceBook.Kind.LIST.value)
    return [row for kind in kinds for row in found.get((name, kind), [])]


def set_device_price(
    organization: Organization,
    device_type: str,
    terms: Rented | Bought,
    period: PriceRange,
    *,
    approved_by: User | None = None,
) -> Price:
    """The price of a type of device from how one came by it; its source says the terms. Raises as set_price does."""
    return set_price(
        organization,
        Sku("", "", Meter.DEVICE_NS, device_type=device_type),
        terms.unit_price,
        period,
        source=str(terms)[:200],
        approved_by=approved_by,
    )
