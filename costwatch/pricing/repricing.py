"""What a price, or exchange rates, would change before they are set: they are set, everything is costed anew, and all
of it is taken back.

So what is shown is what would be, by the very code that sets and costs, whatever a price touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import transaction

from costwatch.accounts.models import Organization
from costwatch.attribution.queries import used_period
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.cost import CostRow, Dimension, costs
from costwatch.pricing.exchange import midnight
from costwatch.pricing.exchange_rates import DayRate, set_rates
from costwatch.pricing.matching import names_of
from costwatch.pricing.models import Price, PriceBook
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku

# A price that is so many times another one was mostly typed for another unit.
FAR_OFF = 20
_EXACT = money.EXACT


@dataclass(frozen=True, slots=True)
class Repriced:
    """What a team's month costs and would cost. team_id None: unattributed."""

    month: datetime  # its first moment
    team_id: int | None
    team: str
    before: Decimal
    after: Decimal
    unpriced_calls_before: int
    unpriced_calls_after: int

    @property
    def difference(self) -> Decimal:
        return _EXACT.subtract(self.after, self.before)


def repriced(
    organization: Organization, sku: Sku, price: UnitPrice, period: PriceRange
) -> list[Repriced]:
    """Every month and team that a price would change, in order. Raises ValueError as set_price() does."""
    used = _touched(organization, period.valid_from, period.valid_until)
    return _changed(
        organization, used, lambda: set_price(organization, sku, price, period, source="preview")
    )


def rerated(organization: Organization, rates: Sequence[DayRate]) -> list[Repriced]:
    """The same of exchange rates. Raises ValueError as set_rates() does."""
    days = [rate.date for rate in rates]
    used = _touched(organization, midnight(min(days)), None) if days else None
    return _changed(organization, used, lambda: set_rates(organization, rates, source="preview"))


def _changed(
    organization: Organization, used: Period | None, change: Callable[[], object]
) -> list[Repriced]:
    with transaction.atomic():
        before = _costs(organization, used)
        change()
        after = _costs(organization, used)
        transaction.set_rollback(True)
    return [
        row
        for place in sorted(after, key=lambda place: (place[0], place[1] is None, place[1] or 0))
        if (row := _repriced(before.get(place), after[place])) is not None
    ]


_Costs = dict[tuple[datetime, int | None], CostRow]


def _touched(
    organization: Organization, first: datetime | None, until: datetime | None
) -> Period | None:
    """The hours with use in which it would hold; None: there are none."""
    used = used_period(organization)
    if used is None:
        return None
    start, end = max(used.start, first or used.start), min(used.end, until or used.end)
    return Period(start, end) if start < end else None


def _costs(organization: Organization, period: Period | None) -> _Costs:
    if period is None:
        return {}
    rows = costs(organization, period, group_by=[Dimension.TEAM], interval="month")
    return {(row.start, _team_id(row)): row for row in rows if row.start is not None}


def _team_id(row: CostRow) -> int | None:
    team_id = row.key[Dimension.TEAM]
    return team_id if isinstance(team_id, int) else None


def _repriced(before: CostRow | None, after: CostRow) -> Repriced | None:
    assert after.start is not None
    was = before or after
    if (was.cost, was.unpriced_calls) == (after.cost, after.unpriced_calls):
        return None
    return Repriced(
        after.start,
        _team_id(after),
        after.label[Dimension.TEAM],
        was.cost,
        after.cost,
        was.unpriced_calls,
        after.unpriced_calls,
    )


def list_price(sku: Sku) -> Price | None:
    """What the catalogue asks for a SKU, the newest price of it; None: it does not know it."""
    for provider, model in names_of(sku.provider, sku.model, ""):
        found = Price.objects.filter(
            book__kind=PriceBook.Kind.LIST,
            book__organization=None,
            provider__iexact=provider,
            model__iexact=model,
            meter=sku.meter,
            service_tier=sku.service_tier,
        )
        newest = found.order_by("-valid_from").filter(valid_until=None).first()
        if newest is not None:
            return newest
    return None


def is_far_off(price: UnitPrice, listed: UnitPrice) -> bool:
    """Whether a price is more than FAR_OFF times the other one, or less than that part of it; of free ones, no."""
    ours = _EXACT.multiply(price.amount, Decimal(listed.unit_quantity))
    theirs = _EXACT.multiply(listed.amount, Decimal(price.unit_quantity))
    if price.currency != listed.currency or not ours or not theirs:
        return False
    far_off = Decimal(FAR_OFF)
    return ours > _EXACT.multiply(far_off, theirs) or theirs > _EXACT.multiply(far_off, ours)
