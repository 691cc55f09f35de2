"""What was bought of providers and what it costs, by what a provider's bill tells apart: days of UTC, models, tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.pricing.matching import tier_of
from costwatch.pricing.metered import QUANTITY, metered

_BOUGHT = f"""
SELECT (metered.hour AT TIME ZONE 'UTC')::date, offering.provider,
       coalesce(nullif(offering.response_model, ''), offering.request_model),
       metered.meter, offering.service_tier, source.key_id,
       sum({QUANTITY}), sum(metered.unpriced_tokens), sum(metered.cost)
  FROM metered
  JOIN attribution_source AS source ON source.id = metered.source_id
  JOIN attribution_offering AS offering ON offering.id = metered.offering_id
 WHERE metered.meter IS NOT NULL AND offering.device_type = ''
 GROUP BY 1, 2, 3, 4, 5, 6
"""  # noqa: S608  only meters are put in


@dataclass(frozen=True, slots=True)
class ProviderUse:
    """Of one key, on one day of UTC. What has no price is in unpriced_quantity, and in no cost."""

    day: date
    provider: str
    model: str
    meter: str
    service_tier: str  # as prices know it; empty is standard
    key_id: int
    quantity: int
    unpriced_quantity: int
    cost: Decimal


def provider_use(organization: Organization, period: Period) -> list[ProviderUse]:
    """Of tokens alone: one's own devices are nobody's bill. Costs sum to what costs() says of them."""
    hours = metered(organization, period, by_meter=True)
    with connection.cursor() as cursor:
        cursor.execute(hours.query + _BOUGHT, hours.values)
        return [_use(row) for row in cursor]


def _use(row: Sequence[Any]) -> ProviderUse:
    day, provider, model, meter, tier, key_id, quantity, unpriced, cost = row
    return ProviderUse(
        day, provider, model, meter, tier_of(tier), key_id, int(quantity), int(unpriced), cost
    )
