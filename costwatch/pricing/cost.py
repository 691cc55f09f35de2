"""What was used → what it costs, in SQL, when asked for: a corrected price holds for all of its hours at once.

    costs           hourly sums × rates × who pays, by any dimension
    cost_of_calls   the same prices on single ledger entries, with the lines of the bill

The cost of one meter of one rollup row is rounded at 20 decimals in the price's currency, and nowhere else before
somebody reads it, times an exchange rate neither: so the sums over any grouping equal the total to the last digit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from django.db import connection

from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.attribution.models import SOURCE_TAGS, Entry, Source, called
from costwatch.domain import money
from costwatch.domain.periods import Period, hour_of
from costwatch.domain.pricing import Ranged, at
from costwatch.pricing.exchange import Exchange, exchange_of
from costwatch.pricing.metered import PAYER, metered
from costwatch.pricing.models import Meter, Price, Rate

Interval = Literal["hour", "day", "month"]


class Dimension(StrEnum):
    """What costs can be grouped by."""

    TEAM = "team"  # ids; None: unattributed
    FEATURE = "feature"
    CUSTOMER = "customer"
    SOURCE = "source"  # ids
    KEY = "key"  # ids of ingest keys
    SERVICE = "service"
    ENVIRONMENT = "environment"
    PROVIDER = "provider"
    MODEL = "model"
    DEVICE_TYPE = "device_type"
    METER = "meter"  # None: calls of which nothing was counted


@dataclass(frozen=True, slots=True)
class Filters:
    """Empty or None: no filter.

    team_ids       only what these teams pay.
    unattributed   True: what nobody pays, beside team_ids if there are any; False: without it.
    """

    team_ids: frozenset[int] | None = None
    unattributed: bool | None = None
    model: str = ""
    provider: str = ""
    feature: str = ""
    customer: str = ""
    source_id: int | None = None
    device_type: str = ""


@dataclass(frozen=True, slots=True)
class CostRow:
    """Sums over a group. Grouped by meter, quantities of other meters are zero, and a call counts in each of its meters.

    What has no price is in the unpriced numbers and not in cost: cost is a lower bound while they are not zero.
    """

    key: dict[Dimension, str | int | None]
    label: dict[Dimension, str]  # the key for people
    start: datetime | None  # of the interval, in UTC
    calls: int
    failed_calls: int
    unknown_usage_calls: int
    input_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    output_tokens: int
    reasoning_output_tokens: int
    device_ns: int
    device_ns_marginal: int
    device_ns_alone: int
    energy_uj: int
    cost: Decimal
    currency: str
    unpriced_calls: int
    unpriced_tokens: int
    unpriced_device_ns: int
    price_id: int | None = None  # grouped by meter, and one price held for all of it


@dataclass(frozen=True, slots=True)
class CostLine:
    """One meter of a call: amount = price_amount × exchange_rate, of which the first is in the price's currency.

    What is not known is None: without a price all of it, without a rate for its currency the rate and the amount.
    """

    meter: str
    quantity: int
    unit_price: Decimal | None = None
    unit_label: str = ""
    price_id: int | None = None
    price_currency: str = ""
    price_amount: Decimal | None = None
    exchange_rate: Decimal | None = None  # 1: the price is in the organization's currency
    amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class CallCost:
    """amount is None where a price, its exchange rate or the usage is not known: the lines say which."""

    amount: Decimal | None
    currency: str
    lines: tuple[CostLine, ...]


# What each dimension is in the query below.
_KEYS = {
    Dimension.TEAM: "payer.team_id",
    Dimension.FEATURE: "source.feature",
    Dimension.CUSTOMER: "source.customer",
    Dimension.SOURCE: "source.id",
    Dimension.KEY: "source.key_id",
    Dimension.SERVICE: "source.service_name",
    Dimension.ENVIRONMENT: "source.environment",
    Dimension.PROVIDER: "offering.provider",
    Dimension.MODEL: "coalesce(nullif(offering.response_model, ''), offering.request_model)",
    Dimension.DEVICE_TYPE: "offering.device_type",
    Dimension.METER: "metered.meter",
}
_STARTS = {
    None: "NULL::timestamptz",
    "hour": "metered.hour",
    "day": "date_trunc('day', metered.hour, %(time_zone)s)",
    "month": "date_trunc('month', metered.hour, %(time_zone)s)",
}
_COUNTS = ("calls", "failed_calls", "unknown_usage_calls")
_QUANTITIES = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
    "device_ns",
    "device_ns_marginal",
    "device_ns_alone",
    "energy_uj",
)
# Details that go with the meter that they are a detail of.
_METER_OF = {
    "reasoning_output_tokens": "output_tokens",
    "device_ns_marginal": "device_ns",
    "device_ns_alone": "device_ns",
    "energy_uj": "device_ns",
}

_GROUPED = """
SELECT {keys}, {start}, {counts}, {quantities},
       sum(metered.cost), coalesce(sum(metered.calls) FILTER (WHERE metered.unpriced), 0),
       sum(metered.unpriced_tokens), sum(metered.unpriced_device_ns),
       min(metered.price_id), max(metered.price_id)
  FROM metered
  JOIN attribution_source AS source ON source.id = metered.source_id
  JOIN attribution_offering AS offering ON offering.id = metered.offering_id
  {payer}
 WHERE {where}
 GROUP BY {positions}
 ORDER BY {positions}
"""


def costs(
    organization: Organization,
    period: Period,
    *,
    group_by: Sequence[Dimension] = (),
    interval: Interval | None = None,
    filters: Filters | None = None,
) -> list[CostRow]:
    """What was used in a period and what it cost, in the organization's currency, in order of key and start.

    Days and months are those of the organization's time zone; an hour belongs to the day in which it begins. What
    nobody pays is always there, under team None. Without group_by it is one row, or none where nothing was used.
    """
    where, values = conditions(filters or Filters())
    by_meter = Dimension.METER in group_by
    hours = metered(organization, period, by_meter=by_meter)
    query = hours.query + _GROUPED.format(
        payer=PAYER,
        keys=", ".join([_KEYS[dimension] for dimension in group_by] or ["NULL"]),
        start=_STARTS[interval],
        counts=", ".join(f"sum(metered.{name})" for name in _COUNTS),
        quantities=", ".join(_quantity(name, by_meter) for name in _QUANTITIES),
        positions=", ".join(str(n + 1) for n in range(max(1, len(group_by)) + 1)),
        where=" AND ".join(where),
    )
    asked = {**values, **hours.values, "time_zone": organization.time_zone}
    with connection.cursor() as cursor:
        cursor.execute(query, asked)
        rows = cursor.fetchall()
    return _rows(organization, tuple(group_by), rows)


def total(organization: Organization, period: Period, filters: Filters | None = None) -> CostRow:
    """costs() in one row, also where nothing was used."""
    rows = costs(organization, period, filters=filters)
    nothing = (None, None, *(0 for _ in (*_COUNTS, *_QUANTITIES)), Decimal(0), 0, 0, 0, None, None)
    return rows[0] if rows else _rows(organization, (), [nothing])[0]


def _quantity(name: str, by_meter: bool) -> str:
    if not by_meter:
        return f"sum(metered.{name})"
    meter = _METER_OF.get(name, name)
    return f"coalesce(sum(metered.{name}) FILTER (WHERE metered.meter = '{meter}'), 0)"


def conditions(filters: Filters) -> tuple[list[str], dict[str, Any]]:
    """Of a query with source, offering and payer: constants of this file, and the values for their parameters."""
    where, values = ["true"], dict[str, Any]()
    wanted = {
        Dimension.MODEL: filters.model,
        Dimension.PROVIDER: filters.provider,
        Dimension.FEATURE: filters.feature,
        Dimension.CUSTOMER: filters.customer,
        Dimension.SOURCE: filters.source_id,
        Dimension.DEVICE_TYPE: filters.device_type,
    }
    for dimension, value in wanted.items():
        if value not in ("", None):
            where.append(f"{_KEYS[dimension]} = %({dimension.value})s")
            values[dimension.value] = value
    if (payers := _payers(filters)) is not None:
        where.append(payers)
        values["teams"] = list(filters.team_ids or ())
    return where, values


def _payers(filters: Filters) -> str | None:
    one_of = "payer.team_id = ANY(%(teams)s::bigint[])"
    if filters.unattributed:
        return f"({one_of} OR payer.team_id IS NULL)"
    if filters.team_ids is not None:
        return one_of
    return "payer.team_id IS NOT NULL" if filters.unattributed is False else None


def _rows(
    organization: Organization, group_by: tuple[Dimension, ...], rows: Iterable[Sequence[Any]]
) -> list[CostRow]:
    labels = _Labels(organization, group_by)
    keys = max(1, len(group_by))
    return [
        _row(organization, group_by, labels, row[:keys], row[keys], row[keys + 1 :]) for row in rows
    ]


def _row(
    organization: Organization,
    group_by: tuple[Dimension, ...],
    labels: _Labels,
    keys: Sequence[Any],
    start: datetime | None,
    values: Sequence[Any],
) -> CostRow:
    names = (*_COUNTS, *_QUANTITIES)
    key = dict(zip(group_by, keys, strict=False))  # without group_by there is one NULL and no key
    cost, unpriced_calls, unpriced_tokens, unpriced_device_ns, first, last = values[len(names) :]
    return CostRow(
        key=key,
        label={dimension: labels.of(dimension, value) for dimension, value in key.items()},
        start=start,
        **{name: int(value) for name, value in zip(names, values, strict=False)},
        cost=cost,
        currency=organization.currency,
        unpriced_calls=int(unpriced_calls),
        unpriced_tokens=int(unpriced_tokens),
        unpriced_device_ns=int(unpriced_device_ns),
        price_id=first if Dimension.METER in key and first == last else None,
    )


class _Labels:
    """What keys are called on a page."""

    def __init__(self, organization: Organization, group_by: Sequence[Dimension]) -> None:
        self.names: dict[Dimension, dict[int, str]] = {}
        if Dimension.TEAM in group_by:
            teams = Team.objects.filter(organization=organization)
            self.names[Dimension.TEAM] = dict(teams.values_list("pk", "name"))
        if Dimension.SOURCE in group_by:
            sources = Source.objects.filter(organization=organization).values_list(
                "pk", *SOURCE_TAGS
            )
            self.names[Dimension.SOURCE] = {pk: called(tags) for pk, *tags in sources}
        if Dimension.KEY in group_by:
            keys = IngestKey.objects.filter(organization=organization)
            self.names[Dimension.KEY] = {key.pk: str(key) for key in keys}

    def of(self, dimension: Dimension, value: str | int | None) -> str:
        if isinstance(value, int):
            return self.names[dimension][value]
        if dimension is Dimension.TEAM:
            return "unattributed"
        return value or ("not counted" if dimension is Dimension.METER else "not said")


# Single calls


def cost_of_calls(organization: Organization, calls: Iterable[Entry]) -> dict[UUID, CallCost]:
    """What each call cost, by call id, at the very prices that costs() uses.

    calls   ledger rows in force, with their offering.
    """
    entries = list(calls)
    if not entries:
        return {}
    prices = _prices(organization, {entry.offering_id for entry in entries})
    times = [entry.started_at for entry in entries]
    period = Period(min(times), max(times) + timedelta(microseconds=1))
    exchange = exchange_of(organization, period)
    return {entry.call_id: _cost(entry, prices, exchange) for entry in entries}


_Prices = dict[tuple[int, str], list[Ranged[Price]]]


def _prices(organization: Organization, offerings: set[int]) -> _Prices:
    found: _Prices = defaultdict(list)
    rates = Rate.objects.filter(organization=organization, offering_id__in=offerings)
    for rate in rates.select_related("price"):
        found[rate.offering_id, rate.meter].append(
            Ranged(rate.valid_from, rate.valid_until, rate.price)
        )
    return found


def _cost(entry: Entry, prices: _Prices, exchange: Exchange) -> CallCost:
    own_device = bool(entry.offering.device_type)
    hour = hour_of(entry.started_at)
    lines = tuple(
        _line(meter, quantity, at(prices[entry.offering_id, meter], hour), exchange, hour)
        for meter in Meter.values
        if (quantity := getattr(entry, meter)) and (not own_device or meter == Meter.DEVICE_NS)
    )
    known = entry.device_ns is not None if own_device else entry.usage_known
    amounts = [line.amount for line in lines if line.amount is not None]
    complete = known and len(amounts) == len(lines)
    return CallCost(money.total(amounts) if complete else None, exchange.currency, lines)


def _line(
    meter: str, quantity: int, price: Price | None, exchange: Exchange, hour: datetime
) -> CostLine:
    if price is None:
        return CostLine(meter, quantity)
    rate = exchange.at(price.currency, hour)
    amount = price.value.cost(quantity)
    return CostLine(
        meter,
        quantity,
        price.unit_price,
        price.unit_label,
        price.pk,
        price.currency,
        amount.amount,
        rate,
        None if rate is None else (amount * rate).amount,
    )
