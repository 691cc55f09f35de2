"""What was used and has no price, or no exchange rate for it, by model, meter and the ingest key that it came with."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.pricing.exchange import exchange_of
from costwatch.pricing.metered import EXCHANGED, exchange_parameters, parameters

# Added up by hour, offering and key before meters and prices multiply the rows: thousands of sources share them.
# What is metered of an offering is as in cost.py.
_BY_METER = f"""
WITH {EXCHANGED}, used AS (
    SELECT hour.hour, hour.offering_id, source.key_id,
           sum(hour.input_tokens) AS input_tokens,
           sum(hour.cache_read_input_tokens) AS cache_read_input_tokens,
           sum(hour.cache_write_input_tokens) AS cache_write_input_tokens,
           sum(hour.output_tokens) AS output_tokens,
           sum(hour.device_ns) AS device_ns,
           sum(hour.calls) FILTER (WHERE hour.input_tokens <> 0) AS input_calls,
           sum(hour.calls) FILTER (WHERE hour.cache_read_input_tokens <> 0) AS cache_read_calls,
           sum(hour.calls) FILTER (WHERE hour.cache_write_input_tokens <> 0) AS cache_write_calls,
           sum(hour.calls) FILTER (WHERE hour.output_tokens <> 0) AS output_calls,
           sum(hour.calls) FILTER (WHERE hour.device_ns <> 0) AS device_calls
      FROM attribution_usagehour AS hour
      JOIN attribution_source AS source ON source.id = hour.source_id
     WHERE hour.organization_id = %(organization)s
       AND hour.hour >= %(start)s AND hour.hour < %(end)s
     GROUP BY hour.hour, hour.offering_id, source.key_id
)
SELECT offering.provider,
       coalesce(nullif(offering.response_model, ''), offering.request_model),
       offering.device_type, counted.meter, used.key_id,
       coalesce(sum(counted.calls) FILTER (WHERE worth.rate IS NULL), 0),
       bool_or(price.id IS NULL), bool_or(worth.rate IS NOT NULL),
       coalesce(array_agg(DISTINCT price.currency::text) FILTER (WHERE worth.rate IS NULL AND price.id IS NOT NULL), '{{}}')
  FROM used
  JOIN attribution_offering AS offering ON offering.id = used.offering_id
 CROSS JOIN LATERAL (
       VALUES ('input_tokens', used.input_tokens, used.input_calls),
              ('cache_read_input_tokens', used.cache_read_input_tokens, used.cache_read_calls),
              ('cache_write_input_tokens', used.cache_write_input_tokens, used.cache_write_calls),
              ('output_tokens', used.output_tokens, used.output_calls),
              ('device_ns', used.device_ns, used.device_calls)
       ) AS counted (meter, quantity, calls)
  LEFT JOIN pricing_rate AS rate
         ON rate.offering_id = used.offering_id AND rate.meter = counted.meter
        AND (rate.valid_from IS NULL OR rate.valid_from <= used.hour)
        AND (rate.valid_until IS NULL OR rate.valid_until > used.hour)
  LEFT JOIN pricing_price AS price ON price.id = rate.price_id
  LEFT JOIN exchanged ON exchanged.day = date_trunc('day', used.hour, 'UTC')
 CROSS JOIN LATERAL (
       SELECT CASE WHEN price.currency = %(currency)s THEN 1
                   ELSE exchanged.rates[array_position(%(currencies)s::text[], price.currency::text)] END AS rate
       ) AS worth
 WHERE counted.quantity <> 0 AND (offering.device_type = '' OR counted.meter = 'device_ns')
 GROUP BY 1, 2, 3, 4, 5
"""  # noqa: S608  only a part of a query is put in


@dataclass(frozen=True, slots=True)
class MeterUse:
    """One meter of a model, as it came with one key. It may have had a price in some hours and none in others.

    A price that has no exchange rate is no known price: lacks_rates_of says in which currencies they are.
    """

    provider: str
    model: str  # empty: nobody named one
    device_type: str
    meter: str
    key_id: int
    unpriced_calls: int
    lacks_price: bool
    has_price: bool
    lacks_rates_of: tuple[str, ...]


def meters_used(organization: Organization, period: Period) -> list[MeterUse]:
    """Every meter of which anything was used, and whether it had a price."""
    exchange = exchange_of(organization, period)
    asked = parameters(organization, period) | exchange_parameters(exchange, period)
    with connection.cursor() as cursor:
        cursor.execute(_BY_METER, asked)
        return [
            MeterUse(provider, model, device_type, meter, key_id, int(calls), lacks, has, tuple(of))
            for provider, model, device_type, meter, key_id, calls, lacks, has, of in cursor
        ]
