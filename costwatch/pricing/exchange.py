"""Prices in other currencies than the organization's: what they are in its own, by dated exchange rates.

    exchange_of   the rates that a period's costs need; exchange_in: of some currencies
    converted     prices in the organization's currency, at a moment

The rates of a UTC day hold for its hours. The same currency is 1, without a row; what has no rate is unknown, as what
has no price is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TypeVar

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.domain.exchange import RateHistory
from costwatch.domain.money import EXACT
from costwatch.domain.periods import Period
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.exchange_models import ExchangeRate
from costwatch.pricing.models import Price

K = TypeVar("K")

_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What other currencies are worth in the organization's over a period; those that its prices have."""

    currency: str
    histories: Mapping[str, RateHistory]

    def at(self, currency: str, moment: datetime) -> Decimal | None:
        """What one unit of a currency is worth; None: unknown."""
        if currency == self.currency:
            return _ONE
        history = self.histories.get(currency)
        return history.on(day_of(moment)) if history else None

    def days(self, period: Period) -> Iterator[date]:
        """The UTC days of the period on which any rate may hold."""
        known = [history for history in self.histories.values() if history.days]
        if not known:
            return
        first = min(history.days[0] for history in known)
        last = max(history.days[-1] + timedelta(history.max_age_days) for history in known)
        start, end = max(first, day_of(period.start)), min(last, _last_day(period))
        for number in range((end - start).days + 1):
            yield start + timedelta(number)


def exchange_of(organization: Organization, period: Period) -> Exchange:
    """Of the currencies of its prices. Organizations whose prices all are in their own currency have none."""
    return exchange_in(organization, foreign_currencies(organization), period)


def exchange_in(
    organization: Organization, currencies: Collection[str], period: Period
) -> Exchange:
    """Of these currencies; its own is 1."""
    wanted = sorted(set(currencies) - {organization.currency})
    rows: dict[str, list[ExchangeRate]] = defaultdict(list)
    if wanted:
        for row in rows_of(organization, period).filter(base__in=wanted):
            rows[row.base].append(row)
    return Exchange(
        organization.currency, {currency: _history(rows[currency]) for currency in wanted}
    )


def foreign_currencies(organization: Organization) -> list[str]:
    """Of the prices of what it uses, but for its own; in order."""
    found = (
        Price.objects.exclude(currency=organization.currency)
        .filter(rate__organization=organization)
        .order_by("currency")
        .values_list("currency", flat=True)
    )
    return list(found.distinct())


def converted(
    organization: Organization, prices: Mapping[K, UnitPrice], moment: datetime
) -> dict[K, UnitPrice]:
    """Prices in the organization's currency, at a moment's rate or today's if that is earlier; without those that have
    none."""
    shown = min(moment, timezone.now())
    period = Period(shown, shown + timedelta(microseconds=1))
    exchange = exchange_in(organization, {price.currency for price in prices.values()}, period)
    return {
        key: UnitPrice(EXACT.multiply(price.amount, rate), price.unit_quantity, exchange.currency)
        for key, price in prices.items()
        if (rate := exchange.at(price.currency, shown)) is not None
    }


def midnight(day: date) -> datetime:
    """When a day's rate begins to hold."""
    return datetime.combine(day, time(), UTC)


def day_of(moment: datetime) -> date:
    """The UTC day, whose rate holds."""
    return moment.astimezone(UTC).date()


def rows_of(organization: Organization, period: Period) -> QuerySet[ExchangeRate]:
    """The rates that may hold in a period, into the organization's currency, by pair and day."""
    earliest = day_of(period.start) - timedelta(max_age_days())
    rows = ExchangeRate.objects.filter(
        organization=organization,
        quote=organization.currency,
        date__gte=earliest,
        date__lte=_last_day(period),
    )
    return rows.order_by("base", "date")


def max_age_days() -> int:
    days: int = settings.EXCHANGE_RATE_MAX_AGE_DAYS
    return days


def _history(rows: Sequence[ExchangeRate]) -> RateHistory:
    return RateHistory([row.date for row in rows], [row.rate for row in rows], max_age_days())


def _last_day(period: Period) -> date:
    return day_of(period.end - timedelta(microseconds=1))
