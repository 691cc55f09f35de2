"""What setting a price would change, with what becomes of it in months that are closed."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import month_of, name_of_month
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.prices import PriceRange
from costwatch.pricing.rates import Sku
from costwatch.pricing.repricing import Repriced, is_far_off, list_price, repriced
from costwatch.reports.adjustments import in_force


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
    closed = set(in_force(organization).values_list("month__name", flat=True))
    by_month: dict[str, list[Repriced]] = {}
    for row in repriced(organization, sku, price, period):
        month = month_of(row.month, organization.time_zone)
        name = name_of_month(month, organization.time_zone)
        by_month.setdefault(name, []).append(row)
    return PricePreview(
        tuple(
            RepricedMonth(name, name in closed, tuple(teams)) for name, teams in by_month.items()
        ),
        organization.currency,
        _warning(sku, price),
    )


def _warning(sku: Sku, price: UnitPrice) -> str:
    listed = list_price(sku)
    if listed is None or not is_far_off(price, listed.value):
        return ""
    return (
        f"The catalogue has {listed.unit_price.normalize():f} {listed.currency} per {listed.unit_label} for it: "
        "is the amount for another unit?"
    )
