"""An organization's exchange rates. Setting some re-costs everything that they apply to: costs are computed when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from django.db import connection, transaction
from django.utils import timezone

from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.domain.exchange import currency_named, expect_rate
from costwatch.pricing.exchange_models import ExchangeRate

MOST_AT_ONCE = 10_000
_FIRST_YEAR, _LAST_YEAR = 2000, 2200


@dataclass(frozen=True, slots=True)
class DayRate:
    """From a UTC day on one unit of base is so many of the organization's currency. Raises ValueError for what is none."""

    date: date
    base: str
    rate: Decimal

    def __post_init__(self) -> None:
        if not _FIRST_YEAR <= self.date.year <= _LAST_YEAR:
            raise ValueError(
                f"date {self.date.isoformat()}: expected a year from {_FIRST_YEAR} to {_LAST_YEAR}"
            )
        object.__setattr__(self, "base", currency_named(self.base))
        expect_rate(self.rate)


@dataclass(frozen=True, slots=True)
class Entered:
    """How many rates are new, took the place of another one, or were there already."""

    new: int
    corrected: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.new} new, {self.corrected} corrected, {self.unchanged} unchanged"


def expect_base(organization: Organization, base: str) -> None:
    """Raises ValueError for the organization's own currency."""
    if base == organization.currency:
        raise ValueError(
            f"base {base!r}: {organization.name!r} reports in it, so it is 1 and needs no rate; "
            "expected the currency of a price"
        )


def expect_quote(organization: Organization, quote: str) -> None:
    """Raises ValueError for another currency than the organization's: no rate is turned around, 1/x is not exact."""
    if quote != organization.currency:
        raise ValueError(
            f"quote {quote!r}: expected {organization.currency}, in which {organization.name!r} reports; "
            "rates are not turned around, so upload what one unit of the price's currency is in it"
        )


@transaction.atomic
def set_rates(
    organization: Organization,
    rates: Sequence[DayRate],
    *,
    source: str,
    approved_by: User | None = None,
) -> Entered:
    """All of them or none; one of a day that has one takes its place. What was there before is in the audit log.

    Raises ValueError for too many, two of one day, and rates of the organization's own currency.
    """
    _expect(organization, rates)
    _lock(organization)
    before = _rows(organization, rates)
    changed = [rate for rate in rates if _was(before, rate) != rate.rate]
    now = timezone.now()
    ExchangeRate.objects.bulk_create(
        (
            ExchangeRate(
                organization=organization,
                date=rate.date,
                base=rate.base,
                quote=organization.currency,
                rate=rate.rate,
                source=source[:200],
                approved_by=approved_by,
                entered_at=now,
            )
            for rate in changed
        ),
        update_conflicts=True,
        unique_fields=["organization", "base", "quote", "date"],
        update_fields=["rate", "source", "approved_by", "entered_at"],
    )
    corrected = [rate for rate in changed if _was(before, rate) is not None]
    entered = Entered(len(changed) - len(corrected), len(corrected), len(rates) - len(changed))
    if changed:
        _record(organization, source, approved_by, changed, before)
    return entered


def _expect(organization: Organization, rates: Sequence[DayRate]) -> None:
    if len(rates) > MOST_AT_ONCE:
        raise ValueError(f"{len(rates):,} rates: expected up to {MOST_AT_ONCE:,} at once")
    seen = set()
    for rate in rates:
        expect_base(organization, rate.base)
        if (rate.date, rate.base) in seen:
            raise ValueError(f"{rate.date} {rate.base}: expected one rate of a day, found two")
        seen.add((rate.date, rate.base))


def _lock(organization: Organization) -> None:
    """One that sets rates at a time, so that what is recorded as corrected is what was there."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtext('exchange rates'), %s)", [organization.pk]
        )


_Known = dict[tuple[date, str], Decimal]


def _rows(organization: Organization, rates: Sequence[DayRate]) -> _Known:
    rows = ExchangeRate.objects.filter(
        organization=organization,
        quote=organization.currency,
        base__in={rate.base for rate in rates},
        date__in={rate.date for rate in rates},
    )
    return {(row.date, row.base): row.rate for row in rows}


def _was(before: _Known, rate: DayRate) -> Decimal | None:
    return before.get((rate.date, rate.base))


def _record(
    organization: Organization,
    source: str,
    actor: User | None,
    changed: Iterable[DayRate],
    before: _Known,
) -> None:
    AuditEvent.objects.create(
        organization=organization,
        actor=actor,
        action="exchange_rates.set",
        target=f"to {organization.currency}",
        details={
            "source": source,
            "rates": [
                {
                    "date": rate.date.isoformat(),
                    "base": rate.base,
                    "rate": f"{rate.rate:f}",
                    "before": None
                    if (was := _was(before, rate)) is None
                    else f"{was.normalize():f}",
                }
                for rate in changed
            ],
        },
    )
