"""The beginning of queries about money: hours of use, each with what it costs.

    offering_hours   the hours from which on other prices hold, by offering
    priced           the prices of all meters side by side, by offering and such a time
    metered          rollup rows with cost, or rollup rows and meters
    PAYER            joins who pays for a metered row
    QUANTITY         how much of its meter one has, where each meter has a row

Prices are laid side by side first, so that hundreds of thousands of hours find theirs with one join, of which the
planner knows how many rows it leaves.
"""

from __future__ import annotations

from datetime import datetime

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.domain.pricing import COST_PLACES
from costwatch.pricing.models import Meter

_METERS = tuple(Meter.values)
# Of one's own devices only their time has a price.
_SIDE_BY_SIDE = ",\n           ".join(
    f"max(price.unit_price) FILTER (WHERE rate.meter = '{meter}') AS {meter}_price, "
    f"max(price.unit_quantity) FILTER (WHERE rate.meter = '{meter}') AS {meter}_unit, "
    f"max(price.id) FILTER (WHERE rate.meter = '{meter}') AS {meter}_price_id"
    for meter in _METERS
)
_PRICED = f"""
WITH edge (offering_id, begins) AS (
    SELECT offering_id, valid_from FROM pricing_rate
     WHERE organization_id = %(organization)s AND valid_from IS NOT NULL
    UNION
    SELECT offering_id, valid_until FROM pricing_rate
     WHERE organization_id = %(organization)s AND valid_until IS NOT NULL
    UNION
    SELECT id, '-infinity' FROM attribution_offering WHERE organization_id = %(organization)s
), offering_hours AS (
    SELECT offering_id, begins,
           coalesce(lead(begins) OVER (PARTITION BY offering_id ORDER BY begins), 'infinity') AS ends
      FROM edge
), priced AS MATERIALIZED (
    SELECT offering_hours.offering_id, begins, ends, offering.device_type = '' AS by_token,
           {_SIDE_BY_SIDE}
      FROM offering_hours
      JOIN attribution_offering AS offering ON offering.id = offering_hours.offering_id
      LEFT JOIN pricing_rate AS rate
             ON rate.offering_id = offering_hours.offering_id
            AND (offering.device_type = '' OR rate.meter = 'device_ns')
            AND (rate.valid_from IS NULL OR rate.valid_from <= begins)
            AND (rate.valid_until IS NULL OR rate.valid_until > begins)
      LEFT JOIN pricing_price AS price
             ON price.id = rate.price_id AND price.currency = %(currency)s
     GROUP BY 1, 2, 3, 4
)"""  # noqa: S608  only meters are put in
_USED = """
      FROM attribution_usagehour AS hour
      JOIN priced ON priced.offering_id = hour.offering_id
       AND priced.begins <= hour.hour AND priced.ends > hour.hour
"""
_WHERE = """
     WHERE hour.organization_id = %(organization)s
       AND hour.hour >= %(start)s AND hour.hour < %(end)s
       AND (hour.calls <> 0 OR hour.input_tokens <> 0 OR hour.output_tokens <> 0 OR hour.device_ns <> 0
            OR hour.cache_read_input_tokens <> 0 OR hour.cache_write_input_tokens <> 0)
"""


PAYER = """LEFT JOIN attribution_sourceteam AS payer ON payer.source_id = metered.source_id
       AND (payer.valid_from IS NULL OR payer.valid_from <= metered.hour)
       AND (payer.valid_until IS NULL OR payer.valid_until > metered.hour)"""
_EACH_QUANTITY = " ".join(f"WHEN '{meter}' THEN metered.{meter}" for meter in _METERS)
QUANTITY = f"CASE metered.meter {_EACH_QUANTITY} ELSE 0 END"


def _cost(quantity: str, price: str, unit: str) -> str:
    # Casting before the division makes Postgres keep the decimals that it would otherwise choose by size.
    return f"round(({quantity} * {price})::numeric(80, {COST_PLACES}) / {unit}, {COST_PLACES})"


def _counted(meter: str) -> str:
    by_token = "" if meter == Meter.DEVICE_NS else " AND priced.by_token"
    return f"hour.{meter} <> 0{by_token}"


def _cost_of(meter: str) -> str:
    cost = _cost(f"hour.{meter}", f"priced.{meter}_price", f"priced.{meter}_unit")
    return (
        f"CASE WHEN {_counted(meter)} AND priced.{meter}_price IS NOT NULL THEN {cost} ELSE 0 END"
    )


def _unpriced(meter: str) -> str:
    return f"({_counted(meter)} AND priced.{meter}_price IS NULL)"


def _unpriced_of(meter: str) -> str:
    return f"CASE WHEN {_unpriced(meter)} THEN hour.{meter} ELSE 0 END"


_TOKENS = tuple(meter for meter in _METERS if meter != Meter.DEVICE_NS)
_WHOLE = f"""{_PRICED}, metered AS (
    SELECT hour.*, NULL::text AS meter,
           {" + ".join(map(_cost_of, _METERS))} AS cost,
           {" OR ".join(map(_unpriced, _METERS))} AS unpriced,
           {" + ".join(map(_unpriced_of, _TOKENS))} AS unpriced_tokens,
           {_unpriced_of(Meter.DEVICE_NS)} AS unpriced_device_ns,
           NULL::bigint AS price_id
{_USED}{_WHERE})
"""
_EACH = ", ".join(
    f"('{meter}', hour.{meter}, priced.{meter}_price, priced.{meter}_unit, priced.{meter}_price_id)"
    for meter in _METERS
)
_BY_METER = f"""{_PRICED}, metered AS (
    SELECT hour.*, counted.meter,
           coalesce({_cost("counted.quantity", "counted.price", "counted.unit")}, 0) AS cost,
           counted.meter IS NOT NULL AND counted.price IS NULL AS unpriced,
           CASE WHEN counted.price IS NULL AND counted.meter <> 'device_ns'
                THEN counted.quantity ELSE 0 END AS unpriced_tokens,
           CASE WHEN counted.price IS NULL AND counted.meter = 'device_ns'
                THEN counted.quantity ELSE 0 END AS unpriced_device_ns,
           counted.price_id
{_USED}
      LEFT JOIN LATERAL (
           SELECT * FROM (VALUES {_EACH}) AS each (meter, quantity, price, unit, price_id)
            WHERE quantity <> 0 AND (priced.by_token OR meter = 'device_ns')
           ) AS counted ON true
{_WHERE})
"""  # noqa: S608  only words of this module are put in


def metered(*, by_meter: bool = False) -> str:
    """A query's beginning, to be followed by a SELECT from metered: an hour's columns and what it costs.

    Its parameters: organization, start, end and currency. Cost is rounded at COST_PLACES, and nowhere else; unpriced
    is what has no price. With by_meter a row of each meter that was counted, or one without a meter.
    """
    return _BY_METER if by_meter else _WHOLE


def parameters(organization: Organization, period: Period) -> dict[str, int | str | datetime]:
    """What metered() asks for."""
    return {
        "organization": organization.pk,
        "start": period.start,
        "end": period.end,
        "currency": organization.currency,
    }
