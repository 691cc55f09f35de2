"""The beginning of queries about money: hours of use, each with what it costs.

    offering_hours   the hours from which on other prices hold, by offering
    priced           the prices of all meters side by side, by offering and such a time
    exchanged        by UTC day, what other currencies are worth in the organization's; only where prices have others
    metered          rollup rows with cost, or rollup rows and meters
    PAYER            joins who pays for a metered row
    QUANTITY         how much of its meter one has, where each meter has a row

Prices are laid side by side first, so that hundreds of thousands of hours find theirs with one join, of which the
planner knows how many rows it leaves. A day's rates are one array for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.domain.pricing import COST_PLACES
from costwatch.pricing.exchange import Exchange, exchange_of, midnight
from costwatch.pricing.models import Meter

_METERS = tuple(Meter.values)
# Of one's own devices only their time has a price.
_SIDE_BY_SIDE = ",\n           ".join(
    f"max(price.unit_price) FILTER (WHERE rate.meter = '{meter}') AS {meter}_price, "
    f"max(price.unit_quantity) FILTER (WHERE rate.meter = '{meter}') AS {meter}_unit, "
    f"max(price.id) FILTER (WHERE rate.meter = '{meter}') AS {meter}_price_id"
    for meter in _METERS
)
# Where a price's currency stands in a day's array; null: it is the organization's.
_PLACES = ",\n           ".join(
    f"max(array_position(%(currencies)s::text[], price.currency::text)) "
    f"FILTER (WHERE rate.meter = '{meter}') AS {meter}_place"
    for meter in _METERS
)
_IN_ONE_CURRENCY = "AND price.currency = %(currency)s"
_PRICED = """
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
           {columns}
      FROM offering_hours
      JOIN attribution_offering AS offering ON offering.id = offering_hours.offering_id
      LEFT JOIN pricing_rate AS rate
             ON rate.offering_id = offering_hours.offering_id
            AND (offering.device_type = '' OR rate.meter = 'device_ns')
            AND (rate.valid_from IS NULL OR rate.valid_from <= begins)
            AND (rate.valid_until IS NULL OR rate.valid_until > begins)
      LEFT JOIN pricing_price AS price ON price.id = rate.price_id {currency}
     GROUP BY 1, 2, 3, 4
)"""
EXCHANGED = """exchanged AS MATERIALIZED (
    SELECT day, array_agg(rate ORDER BY place) AS rates
      FROM unnest(%(days)s::timestamptz[], %(places)s::int[], %(rates)s::numeric[]) AS said (day, place, rate)
     GROUP BY day
)"""
_USED = """
      FROM attribution_usagehour AS hour
      JOIN priced ON priced.offering_id = hour.offering_id
       AND priced.begins <= hour.hour AND priced.ends > hour.hour
"""
_ON_ITS_DAY = "LEFT JOIN exchanged ON exchanged.day = date_trunc('day', hour.hour, 'UTC')"
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


def _rate(place: str) -> str:
    """What a price's currency is worth on the hour's day; null: unknown."""
    return f"CASE WHEN {place} IS NULL THEN 1 ELSE exchanged.rates[{place}] END"


def _cost_of(meter: str, exchanged: bool) -> str:
    cost = _cost(f"hour.{meter}", f"priced.{meter}_price", f"priced.{meter}_unit")
    if exchanged:
        cost = f"coalesce({cost} * {_rate(f'priced.{meter}_place')}, 0)"
    return (
        f"CASE WHEN {_counted(meter)} AND priced.{meter}_price IS NOT NULL THEN {cost} ELSE 0 END"
    )


def _unpriced(meter: str, exchanged: bool) -> str:
    rate = _rate(f"priced.{meter}_place")
    unrated = f" OR {rate} IS NULL" if exchanged else ""
    return f"({_counted(meter)} AND (priced.{meter}_price IS NULL{unrated}))"


def _unpriced_of(meter: str, exchanged: bool) -> str:
    return f"CASE WHEN {_unpriced(meter, exchanged)} THEN hour.{meter} ELSE 0 END"


def _sum(term: Callable[[str, bool], str], meters: Iterable[str], exchanged: bool) -> str:
    return " + ".join(term(meter, exchanged) for meter in meters)


_TOKENS = tuple(meter for meter in _METERS if meter != Meter.DEVICE_NS)


def _hours(exchanged: bool) -> str:
    """The FROM of both queries."""
    return _USED + (_ON_ITS_DAY if exchanged else "")


def _whole(exchanged: bool) -> str:
    return f"""metered AS (
    SELECT hour.*, NULL::text AS meter,
           {_sum(_cost_of, _METERS, exchanged)} AS cost,
           {" OR ".join(_unpriced(meter, exchanged) for meter in _METERS)} AS unpriced,
           {_sum(_unpriced_of, _TOKENS, exchanged)} AS unpriced_tokens,
           {_unpriced_of(Meter.DEVICE_NS, exchanged)} AS unpriced_device_ns,
           NULL::bigint AS price_id
{_hours(exchanged)}{_WHERE})
"""


def _by_meter(exchanged: bool) -> str:
    each = ", ".join(
        f"('{meter}', hour.{meter}, priced.{meter}_price, priced.{meter}_unit, priced.{meter}_price_id, "
        f"{f'priced.{meter}_place' if exchanged else 'NULL::int'})"
        for meter in _METERS
    )
    rate = _rate("each.place") if exchanged else "1"
    cost = "counted.cost * counted.rate" if exchanged else "counted.cost"
    unknown = "(counted.price IS NULL OR counted.rate IS NULL)"
    return f"""metered AS (
    SELECT hour.*, counted.meter,
           coalesce({cost}, 0) AS cost,
           coalesce(counted.cost, 0) AS price_cost,
           counted.meter IS NOT NULL AND {unknown} AS unpriced,
           counted.price IS NOT NULL AND counted.rate IS NULL AS unrated,
           CASE WHEN {unknown} AND counted.meter <> 'device_ns' THEN counted.quantity ELSE 0 END AS unpriced_tokens,
           CASE WHEN {unknown} AND counted.meter = 'device_ns' THEN counted.quantity ELSE 0 END AS unpriced_device_ns,
           counted.price_id
{_hours(exchanged)}
      LEFT JOIN LATERAL (
           SELECT each.*, {_cost("each.quantity", "each.price", "each.unit")} AS cost, {rate} AS rate
             FROM (VALUES {each}) AS each (meter, quantity, price, unit, price_id, place)
            WHERE quantity <> 0 AND (priced.by_token OR meter = 'device_ns')
           ) AS counted ON true
{_WHERE})
"""  # noqa: S608  only words of this module are put in


@cache
def _query(exchanged: bool, by_meter: bool) -> str:
    columns = f"{_SIDE_BY_SIDE},\n           {_PLACES}" if exchanged else _SIDE_BY_SIDE
    parts = [_PRICED.format(columns=columns, currency="" if exchanged else _IN_ONE_CURRENCY)]
    if exchanged:
        parts.append(EXCHANGED)
    parts.append(_by_meter(exchanged) if by_meter else _whole(exchanged))
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Metered:
    """The beginning of a query, and what it asks with."""

    query: str
    values: Mapping[str, Any]


def metered(organization: Organization, period: Period, *, by_meter: bool = False) -> Metered:
    """What a SELECT from metered follows: a period's hours with their columns and what they cost.

    Cost is in the organization's currency: the amount in the price's, rounded at COST_PLACES and nowhere else, × the
    day's exchange rate. unpriced is what has no price, or no rate for its price. With by_meter there is a row of each
    meter that was counted, or one without a meter; it also says price_cost, in the price's currency, and whether it is
    unrated: without a rate.
    """
    exchange = exchange_of(organization, period)
    exchanged = bool(exchange.histories)
    values = parameters(organization, period)
    return Metered(
        _query(exchanged, by_meter),
        values | exchange_parameters(exchange, period) if exchanged else values,
    )


def parameters(organization: Organization, period: Period) -> dict[str, Any]:
    """What a query of a period asks with."""
    return {
        "organization": organization.pk,
        "start": period.start,
        "end": period.end,
        "currency": organization.currency,
    }


def exchange_parameters(exchange: Exchange, period: Period) -> dict[str, Any]:
    """What EXCHANGED is made of: a row for each day and currency."""
    currencies = list(exchange.histories)
    rows = [
        (midnight(day), place, exchange.histories[currency].on(day))
        for day in exchange.days(period)
        for place, currency in enumerate(currencies, start=1)
    ]
    days, places, rates = zip(*rows, strict=True) if rows else ((), (), ())
    return {
        "currencies": currencies,
        "days": list(days),
        "places": list(places),
        "rates": list(rates),
    }
