"""What setting a price or exchange rates would change, with what becomes of it in months that are closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period, month_of, name_of_month
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.exchange import converted, exchange_in, midnight
from costwatch.pricing.exchange_rates import DayRate
from costwatch.pricing.prices import PriceRange
from costwatch.pricing.rates import Sku
from costwatch.pricing.repricing import Repriced, is_far_off, list_price, repriced, rerated
from costwatch.reports.adjustments import in_force

# Currencies move by a few per cent a day.
_FAR_OFF = Decimal("1.5")


@dataclass(frozen=True, slots=True)
class RepricedMonth:
    month: str  # 2026-11
    is_closed: bool  # then the difference becomes an adjustment in the next month that is closed
    teams: tuple[Repriced, ...]

    @property
    def difference(self) -> Decimal:
        return money.total(team.difference for team in self.teams)


@dataclass(frozen=True, slots=True)
class PricePreview:
    """Amounts are in the organization's currency."""

    months: tuple[RepricedMonth, ...]
    currency: str
    warning: str  # empty: the price is nothing out of the ordinary

    @property
    def difference(self) -> Decimal:
        return money.total(month.difference for month in self.months)


def preview_of_price(
    organization: Organization, sku: Sku, price: UnitPrice, period: PriceRange
) -> PricePreview:
    """Nothing is changed. Raises ValueError as set_price() does."""
    months = _months(organization, repriced(organization, sku, price, period))
    return PricePreview(months, organization.currency, _warning(organization, sku, price))


def preview_of_rates(organization: Organization, rates: Sequence[DayRate]) -> PricePreview:
    """The same of exchange rates. Raises ValueError as set_rates() does."""
    months = _months(organization, rerated(organization, rates))
    return PricePreview(months, organization.currency, _warning_of_rates(organization, rates))


def _months(organization: Organization, rows: Iterable[Repriced]) -> tuple[RepricedMonth, ...]:
    closed = set(in_force(organization).values_list("month__name", flat=True))
    by_month: dict[str, list[Repriced]] = {}
    for row in rows:
        month = month_of(row.month, organization.time_zone)
        name = name_of_month(month, organization.time_zone)
        by_month.setdefault(name, []).append(row)
    return tuple(
        RepricedMonth(name, name in closed, tuple(teams)) for name, teams in by_month.items()
    )


def _warning(organization: Organization, sku: Sku, price: UnitPrice) -> str:
    listed = list_price(sku)
    if listed is None:
        return ""
    compared = converted(organization, {"ours": price, "theirs": listed.value}, timezone.now())
    if len(compared) < 2 or not is_far_off(compared["ours"], compared["theirs"]):
        return ""
    return (
        f"The catalogue has {listed.unit_price.normalize():f} {listed.currency} per {listed.unit_label} for it: "
        "is the amount for another unit?"
    )


def _warning_of_rates(organization: Organization, rates: Sequence[DayRate]) -> str:
    """A rate that is far from the one that holds was mostly typed for the other direction, or a comma too far."""
    if not rates:
        return ""
    days = [rate.date for rate in rates]
    period = Period(midnight(min(days)), midnight(max(days)) + timedelta(days=1))
    held = exchange_in(organization, {rate.base for rate in rates}, period)
    for rate in rates:
        known = held.at(rate.base, midnight(rate.date))
        if known is not None and not known / _FAR_OFF <= rate.rate <= known * _FAR_OFF:
            return (
                f"{rate.date}: 1 {rate.base} = {rate.rate:f} {organization.currency}, where {known.normalize():f} holds "
                "now: is it the rate of the other direction?"
            )
    return ""
