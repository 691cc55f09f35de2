"""Bills beside metered cost: per day of UTC, provider, project and model, with the causes of each difference.

    reconcile     the rows of a period, and what could not be laid beside a bill
    summed        rows added up, by whatever is asked for

What a bill does not tell apart is not told apart on the metered side either: meters and models where it names none,
projects that no key is linked to. Days without a bill are left out: nothing is known to be missing then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.money import EXACT
from costwatch.domain.periods import Period
from costwatch.domain.reconciliation import Cause, Cell, explain, roundable
from costwatch.pricing.exchange import Exchange, exchange_in
from costwatch.pricing.matching import catalogued, company_of, tier_of
from costwatch.pricing.provider_use import ProviderUse, provider_use
from costwatch.reports.bill_models import ProviderBill, ProviderBillLine, ProviderProject

SETTLED_AFTER = timedelta(days=2)  # a provider's own corrections of a day mostly come until then


@dataclass(frozen=True, slots=True)
class Key:
    """What is compared. project and model are empty where the bill, or we, can't tell them apart."""

    day: date | None
    provider: str
    project: str
    model: str


@dataclass(frozen=True, slots=True)
class Row:
    """Amounts in the organization's currency; variance is billed − metered, and the sum of causes.

    uncompared   what was billed in a currency without an exchange rate, by currency: in no other amount, and neither
                 is what was metered beside it.
    """

    key: Key
    billed: Decimal
    metered: Decimal
    causes: dict[Cause, Decimal]
    covered: Decimal
    uncompared: dict[str, Decimal]
    is_final: bool

    @property
    def variance(self) -> Decimal:
        return EXACT.subtract(self.billed, self.metered)

    @property
    def shown_metered(self) -> Decimal | None:
        """None where nothing of it has a price: unknown is not free."""
        return None if not self.metered and Cause.UNPRICED in self.causes else self.metered

    @property
    def coverage_percent(self) -> Decimal | None:
        """How much of what was billed was metered and priced; None where nothing was billed."""
        if self.billed <= 0:
            return None
        return EXACT.divide(EXACT.multiply(self.covered, Decimal(100)), self.billed)


@dataclass(frozen=True, slots=True)
class Unbilled:
    """What was metered of a provider on days without a bill of it."""

    provider: str
    days: int
    metered: Decimal
    unpriced_quantity: int  # tokens without a price, in no cost

    @property
    def shown_metered(self) -> Decimal | None:
        return None if not self.metered and self.unpriced_quantity else self.metered


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """first to last are days of UTC, both included."""

    first: date
    last: date
    currency: str
    rows: tuple[Row, ...]  # in order of day, provider, project and model
    unbilled: tuple[Unbilled, ...]
    fetched_at: datetime | None  # of the latest bill

    @property
    def total(self) -> Row:
        rows = summed(self.rows, ())
        return rows[0] if rows else _sum(Key(None, "", "", ""), ())


def reconcile(organization: Organization, first: date, last: date) -> Reconciliation:
    """Of the days of UTC from first to last, both included."""
    bills = list(
        ProviderBill.objects.filter(
            organization=organization, day__gte=first, day__lte=last
        ).prefetch_related("lines")
    )
    projects = _Projects(organization)
    used = provider_use(organization, _period(first, last))
    billed_days = {(company_of(bill.provider), bill.day) for bill in bills}
    groups = _groups(bills, used, billed_days, projects)
    currencies = {line.currency for bill in bills for line in bill.lines.all()}
    exchange = exchange_in(organization, currencies, _period(first, last))
    finals = _finals(bills)
    rows = [
        _row(key, group, exchange, finals[key.provider, key.day])
        for key, group in groups.items()
        if key.day is not None
    ]
    return Reconciliation(
        first,
        last,
        organization.currency,
        tuple(sorted(rows, key=_place)),
        tuple(_unbilled(used, billed_days)),
        max((bill.fetched_at for bill in bills), default=None),
    )


def summed(rows: Iterable[Row], by: Sequence[str]) -> list[Row]:
    """Rows added up by some of day, provider, project and model, in their order; the others are left empty."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        empty = Key(None, "", "", "")
        found[replace(empty, **{name: getattr(row.key, name) for name in by})].append(row)
    return sorted((_sum(key, each) for key, each in found.items()), key=_place)


def _sum(key: Key, rows: Iterable[Row]) -> Row:
    known = list(rows)
    causes: dict[Cause, Decimal] = defaultdict(Decimal)
    uncompared: dict[str, Decimal] = defaultdict(Decimal)
    for row in known:
        for cause, amount in row.causes.items():
            causes[cause] = EXACT.add(causes[cause], amount)
        for currency, amount in row.uncompared.items():
            uncompared[currency] = EXACT.add(uncompared[currency], amount)
    return Row(
        key,
        money.total(row.billed for row in known),
        money.total(row.metered for row in known),
        {cause: causes[cause] for cause in Cause if causes.get(cause)},
        money.total(row.covered for row in known),
        dict(uncompared),
        all(row.is_final for row in known),
    )


def _place(row: Row) -> tuple[date, str, str, str]:
    key = row.key
    return key.day or date.min, key.provider, key.project, key.model


def _period(first: date, last: date) -> Period:
    start, end = (datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1)))
    return Period(start, end)


class _Projects:
    """Which projects are told apart on both sides: those that keys are linked to."""

    def __init__(self, organization: Organization) -> None:
        rows = ProviderProject.objects.filter(organization=organization)
        linked = [(company_of(row.provider), row.project, row.key_id) for row in rows]
        self.known = {(provider, project) for provider, project, _ in linked}
        self.of_key = {(provider, key_id): project for provider, project, key_id in linked}

    def billed(self, provider: str, project: str) -> str:
        return project if (provider, project) in self.known else ""

    def metered(self, provider: str, key_id: int) -> str:
        return self.of_key.get((provider, key_id), "")


@dataclass(slots=True)
class _Group:
    lines: list[ProviderBillLine]
    used: list[ProviderUse]


_Groups = dict[Key, _Group]


def _groups(
    bills: Iterable[ProviderBill],
    used: Iterable[ProviderUse],
    billed_days: set[tuple[str, date]],
    projects: _Projects,
) -> _Groups:
    groups: _Groups = defaultdict(lambda: _Group([], []))
    for bill in bills:
        company = company_of(bill.provider)
        for line in bill.lines.all():
            project = projects.billed(company, line.project)
            model = _model(bill.provider, line.model)
            groups[Key(bill.day, company, project, model)].lines.append(line)
    # Of which day, provider and project a bill names any model.
    named = {replace(key, model="") for key in groups if key.model}
    billed = {replace(key, model="") for key in groups}
    for use in used:
        company = company_of(use.provider)
        if (company, use.day) not in billed_days:
            continue
        whole = Key(use.day, company, projects.metered(company, use.key_id), "")
        model = "" if whole in billed - named else _model(use.provider, use.model)
        groups[replace(whole, model=model)].used.append(use)
    return groups


def _model(provider: str, model: str) -> str:
    """As the catalogue calls it, so that dated names of one model meet; else as it is said."""
    if not model:
        return ""
    found = catalogued(provider.strip().lower(), model.strip().lower())
    return found[1] if found else model.strip().lower()


def _finals(bills: Iterable[ProviderBill]) -> dict[tuple[str, date | None], bool]:
    """Whether all bills of a provider's day were fetched after it had settled."""
    found: dict[tuple[str, date | None], bool] = {}
    for bill in bills:
        key = company_of(bill.provider), bill.day
        settled = datetime.combine(bill.day, time(), UTC) + timedelta(days=1) + SETTLED_AFTER
        found[key] = found.get(key, True) and bill.fetched_at >= settled
    return found


def _row(key: Key, group: _Group, exchange: Exchange, is_final: bool) -> Row:
    assert key.day is not None, "a bill is of a day"
    rates = {
        currency: exchange.at(currency, datetime.combine(key.day, time(), UTC))
        for currency in {line.currency for line in group.lines}
    }
    uncompared: dict[str, Decimal] = defaultdict(Decimal)
    for line in group.lines:
        if rates[line.currency] is None:
            uncompared[line.currency] = EXACT.add(uncompared[line.currency], line.amount)
    if uncompared:
        # A part of the bill beside all that was metered would show a difference that is none.
        nothing = Decimal(0)
        return Row(key, nothing, nothing, {}, nothing, dict(uncompared), is_final)
    cells = _cells(group, {name: rate for name, rate in rates.items() if rate is not None})
    found = explain(cells, is_final=is_final)
    return Row(
        key,
        money.total(cell.billed for cell in cells if cell.billed is not None),
        money.total(cell.metered for cell in cells),
        found.causes,
        found.covered,
        {},
        is_final,
    )


def _cells(group: _Group, rates: dict[str, Decimal]) -> list[Cell]:
    """By meter and tier; where the bill names no meter, all of it is one cell."""
    by_meter = not group.lines or any(line.meter for line in group.lines)
    cells: dict[tuple[str, str], Cell] = {}
    for line in group.lines:
        place = (line.meter, tier_of(line.service_tier)) if by_meter else ("", "")
        cells[place] = _with_line(cells.get(place, Cell(*place)), line, rates[line.currency])
    for use in group.used:
        place = (use.meter, use.service_tier) if by_meter else ("", "")
        cell = cells.get(place, Cell(*place))
        cells[place] = replace(
            cell,
            metered=EXACT.add(cell.metered, use.cost),
            metered_quantity=cell.metered_quantity + use.quantity - use.unpriced_quantity,
            unpriced_quantity=cell.unpriced_quantity + use.unpriced_quantity,
        )
    if not by_meter:  # tokens of several meters are not one quantity
        return [replace(cell, billed_quantity=None) for cell in cells.values()]
    return list(cells.values())


def _with_line(cell: Cell, line: ProviderBillLine, rate: Decimal) -> Cell:
    amount = EXACT.multiply(line.amount, rate)
    shown = line.amount.quantize(Decimal(1).scaleb(-line.places), context=EXACT)
    quantity = None if line.quantity is None else int(line.quantity)
    if cell.billed is not None:
        known = cell.billed_quantity is not None and quantity is not None
        quantity = (cell.billed_quantity or 0) + (quantity or 0) if known else None
    return replace(
        cell,
        billed=amount if cell.billed is None else EXACT.add(cell.billed, amount),
        billed_quantity=quantity,
        roundable=EXACT.add(cell.roundable, EXACT.multiply(roundable(shown, line.currency), rate)),
    )


def _unbilled(
    used: Iterable[ProviderUse], billed_days: set[tuple[str, date]]
) -> Iterable[Unbilled]:
    found: dict[str, list[ProviderUse]] = defaultdict(list)
    for use in used:
        company = company_of(use.provider)
        if (company, use.day) not in billed_days:
            found[company].append(use)
    for company, uses in sorted(found.items()):
        yield Unbilled(
            company,
            len({use.day for use in uses}),
            money.total(use.cost for use in uses),
            sum(use.unpriced_quantity for use in uses),
        )
