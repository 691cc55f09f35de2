"""Hourly sums as ingest leaves them, without the calls; and calls through the whole of ingest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from collectors.observation import Observation
from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.attribution import ingest
from costwatch.attribution.assignment import assign_source
from costwatch.attribution.models import Offering, Source, UsageHour
from costwatch.attribution.rollups import USAGE_COLUMNS, add_batches
from costwatch.domain.pricing import NS_PER_HOUR, TOKENS_PER_PRICE, UnitPrice
from costwatch.pricing.exchange_rates import DayRate, Entered, set_rates
from costwatch.pricing.models import Meter, Price
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku, refresh_if_new
from tests.factories import NOON, body, ingest_key

HOUR = NOON.replace(minute=0)


def key_of(organization: Organization) -> IngestKey:
    key = IngestKey.objects.filter(organization=organization).first()
    return key or ingest_key(organization)


def source(organization: Organization, team: Team | None = None, feature: str = "") -> Source:
    row, made = Source.objects.get_or_create(
        organization=organization,
        key=key_of(organization),
        service_name="shop",
        environment="",
        team_tag=team.slug if team else "",
        feature=feature,
        customer="",
    )
    if made:
        assign_source(row)
    return row


def offering(
    organization: Organization,
    provider: str = "openai",
    model: str = "gpt-4o",
    *,
    tier: str = "",
    device_type: str = "",
) -> Offering:
    row, _ = Offering.objects.get_or_create(
        organization=organization,
        provider=provider,
        request_model=model,
        response_model=model,
        service_tier=tier,
        device_type=device_type,
        allocation_method="measured" if device_type else "",
    )
    return row


def used(source: Source, offering: Offering, hour: datetime = HOUR, **sums: Any) -> UsageHour:
    row, _ = UsageHour.objects.update_or_create(
        organization_id=source.organization_id,
        hour=hour,
        source=source,
        offering=offering,
        defaults=dict.fromkeys(USAGE_COLUMNS, 0) | {"calls": 1} | sums,
    )
    refresh_if_new(source.organization_id)
    return row


def take(organization: Organization, *observations: Observation) -> None:
    ingest.take(key_of(organization), body(*observations))
    add_batches(organization.pk)


def send(organization: Organization, *observations: Observation) -> None:
    """With what follows the commit, which a test's transaction never comes to."""
    take(organization, *observations)
    refresh_if_new(organization.pk)


def token_price(
    organization: Organization,
    meter: Meter,
    per_million: str,
    *,
    model: str = "gpt-4o",
    tier: str = "",
    start: datetime | None = None,
    end: datetime | None = None,
    currency: str = "",
) -> Price:
    return set_price(
        organization,
        Sku("openai", model, meter, tier),
        UnitPrice(Decimal(per_million), TOKENS_PER_PRICE, currency or organization.currency),
        PriceRange(start, end),
        source="test",
    )


def device_price(
    organization: Organization, device_type: str, per_hour: str, currency: str = ""
) -> Price:
    return set_price(
        organization,
        Sku("", "", Meter.DEVICE_NS, device_type=device_type),
        UnitPrice(Decimal(per_hour), NS_PER_HOUR, currency or organization.currency),
        PriceRange(),
        source="test",
    )


def exchange_rates(organization: Organization, base: str, rates: Mapping[date, str]) -> Entered:
    """What one unit of base is in the organization's currency, from each day on."""
    return set_rates(
        organization,
        [DayRate(day, base, Decimal(rate)) for day, rate in rates.items()],
        source="test",
    )
