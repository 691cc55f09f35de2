"""What changed about closed months since they were frozen: computed, never edited.

    adjustment = what the month costs now − what is frozen of it, in its own statements and in later adjustments

So frozen lines and pending adjustments together always are what everything costs now, however often prices, rules and
quantities changed in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import F, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils import timezone

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.pricing import UnitPrice
from costwatch.pricing.charges import Charge, Item, charges
from costwatch.pricing.exchange import rows_of
from costwatch.reports.capacity import capacity
from costwatch.reports.lines import ADJUSTMENT, CAPACITY, USAGE, Line, Names, line_of, order
from costwatch.reports.models import Closing, State, StatementLine

Cause = StatementLine.Cause
_ITEM = ("provider", "model", "device_type", "service_tier", "feature", "meter", "method")
# Of a line that is no difference.
_PRICED = Q(kind__in=[USAGE, CAPACITY], unit_price__isnull=False)
_CONVERTED = Q(price_cost__isnull=False)
# The cost of a row of the rollups is rounded at 20 places, so a sum of millions may be off by this.
_ROUNDING = Decimal("1e-9")


@dataclass(slots=True)
class _Sums:
    """Of an item; differences too. prices are those of what was used.

    price_costs   before any exchange rate, by currency.
    """

    calls: int = 0
    quantity: int = 0
    unpriced_quantity: int = 0
    cost: Decimal = Decimal(0)
    prices: set[UnitPrice] = field(default_factory=set)
    price_costs: dict[str, Decimal] = field(default_factory=dict)

    @property
    def price(self) -> UnitPrice | None:
        """The one that held for all of it."""
        return next(iter(self.prices)) if len(self.prices) == 1 else None


@dataclass(frozen=True, slots=True)
class _Difference:
    item: Item
    now: _Sums
    frozen: _Sums

    @property
    def quantity(self) -> int:
        return self.now.quantity - self.frozen.quantity

    @property
    def unpriced_quantity(self) -> int:
        return self.now.unpriced_quantity - self.frozen.unpriced_quantity

    @property
    def cost(self) -> Decimal:
        return money.EXACT.subtract(self.now.cost, self.frozen.cost)

    @property
    def currencies(self) -> frozenset[str]:
        """Of its prices, then and now."""
        return frozenset(self.now.price_costs) | frozenset(self.frozen.price_costs)

    @property
    def price_costs(self) -> dict[str, Decimal]:
        """By currency, those that differ."""
        now, frozen = self.now.price_costs, self.frozen.price_costs
        zero = Decimal(0)
        differences = {
            currency: money.EXACT.subtract(now.get(currency, zero), frozen.get(currency, zero))
            for currency in self.currencies
        }
        return {
            currency: amount for currency, amount in differences.items() if abs(amount) > _ROUNDING
        }

    def __bool__(self) -> bool:
        return bool(self.quantity or self.unpriced_quantity or self.cost)


def in_force(organization: Organization) -> QuerySet[Closing]:
    """The closings of months that are closed now, in order; not those of a month that was reopened."""
    latest = (
        Closing.objects.filter(month=OuterRef("month")).order_by("-edition").values("edition")[:1]
    )
    return (
        Closing.objects.filter(
            organization=organization, month__state=State.CLOSED, edition=Subquery(latest)
        )
        .select_related("month")
        .order_by("month__name")
    )


def pending(organization: Organization, before: str) -> list[Line]:
    """Adjustments to the months that were closed before the month `before`, in order(), with exact costs.

    A month that was closed in another currency than the organization has now has none: its amounts and today's can't
    be told apart by a difference.
    """
    closings = in_force(organization).filter(month__name__lt=before, currency=organization.currency)
    frozen = _frozen(organization)
    names = Names(organization)
    latest = max((closing.closed_at for closing in in_force(organization)), default=timezone.now())
    found = [
        line
        for closing in closings
        for line in _of_month(organization, closing, frozen[closing.month.name], names, latest)
    ]
    return sorted(found, key=order)


def _of_month(
    organization: Organization,
    closing: Closing,
    frozen: Mapping[Item, _Sums],
    names: Names,
    latest: datetime,
) -> Iterable[Line]:
    """latest   when anything was frozen last: all differences of before are."""
    used = charges(organization, closing.period).charges
    now = _now([*used, *capacity(organization, closing.period)])
    new_rates = _new_rates(organization, closing, latest)
    nothing = _Sums()
    differences = [
        _Difference(item, now.get(item, nothing), frozen.get(item, nothing))
        for item in {**now, **frozen}
    ]
    everybodys: dict[Item, int] = defaultdict(int)
    for one in differences:
        everybodys[_whoevers(one.item)] += one.quantity
    for one in filter(None, differences):
        cause = _cause(
            one, everybodys[_whoevers(one.item)], not one.currencies.isdisjoint(new_rates)
        )
        yield _line(one, cause, closing, names)


def _new_rates(organization: Organization, closing: Closing, latest: datetime) -> frozenset[str]:
    """The currencies of which a rate that holds in the month was entered or corrected since."""
    rates = rows_of(organization, closing.period).filter(entered_at__gt=latest)
    return frozenset(rates.values_list("base", flat=True))


def _whoevers(item: Item) -> Item:
    """The item without the team that pays for it."""
    return Item(None, *(getattr(item, name) for name in _ITEM))


def _now(rows: Iterable[Charge]) -> dict[Item, _Sums]:
    found: dict[Item, _Sums] = defaultdict(_Sums)
    for row in rows:
        sums = found[row.item]
        sums.calls += row.calls
        sums.quantity += row.quantity
        sums.unpriced_quantity += row.unpriced_quantity
        sums.cost = money.EXACT.add(sums.cost, row.cost)
        if row.price:
            sums.prices.add(row.price)
            _add(sums, row.price.currency, row.cost if row.price_cost is None else row.price_cost)
    return found


def _add(sums: _Sums, currency: str, amount: Decimal) -> None:
    before = sums.price_costs.get(currency, Decimal(0))
    sums.price_costs[currency] = money.EXACT.add(before, amount)


def _frozen(organization: Organization) -> dict[str, dict[Item, _Sums]]:
    """What is in force of each month, by its name: its own lines, and adjustments to it in later statements."""
    rows = (
        StatementLine.objects.filter(
            organization=organization, statement__closing__in=in_force(organization).values("pk")
        )
        .values("used_in", *_ITEM, team=F("statement__team"))
        .annotate(
            all_calls=Sum("calls"),
            all_quantity=Sum("quantity"),
            all_unpriced=Sum("unpriced_quantity"),
            all_cost=Sum("exact_cost"),
            prices=ArrayAgg("unit_price", filter=_PRICED, default=[]),
            units=ArrayAgg("unit_quantity", filter=_PRICED, default=[]),
            currencies=ArrayAgg("price_currency", filter=_PRICED, default=[]),
            own_cost=Sum("exact_cost", filter=Q(price_cost=None)),
            converted=ArrayAgg("price_cost", filter=_CONVERTED, default=[]),
            converted_from=ArrayAgg("price_currency", filter=_CONVERTED, default=[]),
        )
        .order_by()
    )
    found: dict[str, dict[Item, _Sums]] = defaultdict(dict)
    for row in rows:
        item = Item(row["team"], *(row[name] for name in _ITEM))
        prices = zip(row["prices"], row["units"], row["currencies"], strict=True)
        sums = _Sums(
            int(row["all_calls"]),
            int(row["all_quantity"]),
            int(row["all_unpriced"]),
            row["all_cost"],
            {UnitPrice(*price) for price in prices},
            {organization.currency: row["own_cost"] or Decimal(0)},
        )
        for amount, currency in zip(row["converted"], row["converted_from"], strict=True):
            _add(sums, currency, amount)
        found[row["used_in"]][item] = sums
    return found


def _cause(difference: _Difference, everybodys: int, has_new_rates: bool) -> Cause:
    """Why it costs something else now, as far as the numbers tell.

    everybodys      the difference of quantities over all teams: zero where calls only changed hands.
    has_new_rates   exchange rates that it may depend on were entered or corrected since.
    """
    if not difference.quantity:
        if not has_new_rates:
            return Cause.PRICE
        return Cause.SEVERAL if difference.price_costs else Cause.EXCHANGE_RATE
    if has_new_rates or _is_repriced(difference):
        return Cause.SEVERAL
    if not everybodys:
        return Cause.RULE
    return Cause.LATE if everybodys == difference.quantity else Cause.SEVERAL


def _is_repriced(difference: _Difference) -> bool:
    now = difference.now if difference.now.quantity else difference.frozen
    if len(now.prices) > 1:
        return bool(difference.frozen.prices) and now.prices != difference.frozen.prices
    found = difference.price_costs
    if now.price:
        currency = now.price.currency
        expected = now.price.cost(difference.quantity).amount
        found[currency] = money.EXACT.subtract(found.get(currency, Decimal(0)), expected)
    return any(abs(amount) > _ROUNDING for amount in found.values())


def _line(difference: _Difference, cause: Cause, closing: Closing, names: Names) -> Line:
    quantities_only = cause in {Cause.LATE, Cause.RULE}
    of = difference.now if difference.now.quantity else difference.frozen
    price = of.price if quantities_only and not difference.unpriced_quantity else None
    currency, price_cost = _in_its_currency(difference, price, cause, closing.currency)
    return line_of(
        difference.item,
        names,
        kind=ADJUSTMENT,
        used_in=closing.month.name,
        cause=cause.value,
        calls=difference.now.calls - difference.frozen.calls,
        quantity=difference.quantity,
        unpriced_quantity=difference.unpriced_quantity,
        unit_price=price.amount if price else None,
        unit_quantity=price.unit_quantity if price else None,
        price_currency=currency,
        exact_cost=difference.cost,
        price_cost=price_cost,
    )


def _in_its_currency(
    difference: _Difference, price: UnitPrice | None, cause: Cause, own_currency: str
) -> tuple[str, Decimal | None]:
    """The price's currency and the amount in it, of a line; the amount is None where that is the organization's own.

    Without a price there is a currency only where there is one other than the organization's. An exchange rate changes
    the amount in it by 0.
    """
    found = difference.price_costs
    about = difference.currencies if cause is Cause.EXCHANGE_RATE else found
    currencies = sorted({price.currency} if price else {*about} - {own_currency})
    if cause is Cause.EXCHANGE_RATE:
        return currencies[0], Decimal(0)
    if len(currencies) != 1 or currencies == [own_currency]:
        return price.currency if price else "", None
    return currencies[0], found.get(currencies[0], Decimal(0))
