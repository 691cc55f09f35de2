"""What an organization's own devices cost by the hour, also those that no call ever used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from costwatch.accounts.models import Organization, User
from costwatch.domain.device_price import Bought, Rented
from costwatch.domain.pricing import Ranged, UnitPrice
from costwatch.pricing.models import Price
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import device_sku, prices_held


def device_prices(
    organization: Organization, device_types: Collection[str]
) -> Mapping[str, Sequence[Ranged[UnitPrice]]]:
    """By device type, the very prices that rates.py chooses: contracted before list, in any currency."""
    named = {name: device_sku(name.lower()) for name in device_types}
    held = prices_held(organization.pk, set(named.values()))
    return {
        name: [Ranged(one.valid_from, one.valid_until, one.value.value) for one in held[sku]]
        for name, sku in named.items()
    }


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
        device_sku(device_type),
        terms.unit_price,
        period,
        source=str(terms)[:200],
        approved_by=approved_by,
    )
