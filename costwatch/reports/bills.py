"""Bills of providers, kept day by day. A day that comes again takes the place of what was there: it counts once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import IO

from django.db import transaction

from collectors.providers.files import Contents, read
from collectors.providers.lines import BillLine
from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.domain import money
from costwatch.pricing.matching import catalogued
from costwatch.reports.bill_models import AMOUNT_PLACES, ProviderBill, ProviderBillLine

MOST_DAYS = 400
# Of a file that comes by the pages or the API, in all its parts; the command takes larger ones.
MOST_SENT_BYTES = 64 * 1024 * 1024
MOST_UNPACKED_BYTES = 512 * 1024 * 1024
MOST_PARTS = 20
_SHOWN_SERVICES = 20


@dataclass(frozen=True, slots=True)
class Kept:
    """How many days' bills there are of an account now, and of how many lines."""

    provider: str
    account: str
    days: int
    lines: int
    replaced: int  # days that had a bill before


@transaction.atomic
def keep(
    organization: Organization,
    provider: str,
    account: str,
    days: Sequence[date],
    lines: Iterable[BillLine],
    *,
    source: str,
    now: datetime,
) -> Kept:
    """Keep the bills of these days, also of those without lines. Lines of other days are not looked at."""
    by_day: dict[date, list[BillLine]] = {day: [] for day in days}
    for line in together(lines):
        if line.day in by_day:
            by_day[line.day].append(line)
    # Two that keep the same days at once wait for each other here, in one order.
    of_account = ProviderBill.objects.select_for_update().order_by("day")
    before = of_account.filter(
        organization=organization, provider=provider, account=account, day__in=days
    )
    replaced = len(before)
    ProviderBill.objects.bulk_create(
        (
            ProviderBill(
                organization=organization,
                provider=provider,
                account=account,
                day=day,
                source=source[:300],
                fetched_at=now,
            )
            for day in sorted(by_day)
        ),
        update_conflicts=True,
        unique_fields=["organization", "provider", "account", "day"],
        update_fields=["source", "fetched_at"],
    )
    bills = {
        bill.day: bill
        for bill in ProviderBill.objects.filter(
            organization=organization, provider=provider, account=account, day__in=days
        )
    }
    ProviderBillLine.objects.filter(bill__in=bills.values()).delete()
    rows = [_row(bills[day], line) for day, found in by_day.items() for line in found]
    ProviderBillLine.objects.bulk_create(rows, batch_size=2_000)
    return Kept(provider, account, len(days), len(rows), replaced)


def together(lines: Iterable[BillLine]) -> list[BillLine]:
    """Lines that a bill tells apart by nothing that we keep are one."""
    found: dict[BillLine, tuple[int | None, Decimal]] = {}
    for line in lines:
        key = replace(line, quantity=None, amount=Decimal(0))
        if key in found:
            quantity, amount = found[key]
            both = None if quantity is None or line.quantity is None else quantity + line.quantity
            found[key] = (both, money.EXACT.add(amount, line.amount))
        else:
            found[key] = (line.quantity, line.amount)
    return [
        replace(key, quantity=quantity, amount=amount) for key, (quantity, amount) in found.items()
    ]


def _row(bill: ProviderBill, line: BillLine) -> ProviderBillLine:
    exponent = line.amount.as_tuple().exponent
    assert isinstance(exponent, int), "a bill's amounts are finite"
    return ProviderBillLine(
        bill=bill,
        project=line.project[:300],
        text=line.text[:300],
        model=line.model[:300],
        meter=line.meter,
        service_tier=line.service_tier[:100],
        quantity=None if line.quantity is None else Decimal(line.quantity),
        amount=line.amount,
        places=min(max(0, -exponent), AMOUNT_PLACES),
        currency=line.currency,
    )


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file."""

    format: str
    rows: int
    bills: tuple[Kept, ...]
    left_out: tuple[tuple[str, int], ...]  # services that run no models, with their rows

    @property
    def lines(self) -> int:
        return sum(bill.lines for bill in self.bills)


def take_files(
    organization: Organization,
    files: Iterable[IO[bytes]],
    *,
    source: str,
    now: datetime,
    actor: User | None = None,
    most_bytes: int | None = None,
) -> Taken:
    """Keep a cloud's bill from the parts of its file: all days from its first to its last. Raises BadFile."""
    contents = read(files) if most_bytes is None else read(files, most_bytes)
    with transaction.atomic():
        kept = tuple(_keep_all(organization, contents, source, now))
        taken = Taken(
            contents.format,
            contents.rows,
            kept,
            tuple(list(contents.left_out.items())[:_SHOWN_SERVICES]),
        )
        AuditEvent.objects.create(
            organization=organization,
            actor=actor,
            action="bill.uploaded",
            target=source[:200],
            details={"format": taken.format, "rows": taken.rows, "lines": taken.lines},
        )
    return taken


def _keep_all(
    organization: Organization, contents: Contents, source: str, now: datetime
) -> Iterable[Kept]:
    for bill in contents.bills:
        length = (bill.last - bill.first).days + 1
        if length > MOST_DAYS:
            raise TooLong(
                f"{source}: from {bill.first} to {bill.last}; expected at most {MOST_DAYS} days"
            )
        yield keep(
            organization,
            bill.provider,
            bill.account,
            [bill.first + timedelta(days=n) for n in range(length)],
            [replace(line, model=_known(bill.provider, line.model)) for line in bill.lines],
            source=source,
            now=now,
        )


class TooLong(ValueError):
    """A file's days are more than a bill has."""


def _known(provider: str, model: str) -> str:
    """Clouds write models as they like. What the catalogue does not know is told apart by nobody: the line's text stays."""
    found = catalogued(provider, model) if model else None
    return found[1] if found else ""
