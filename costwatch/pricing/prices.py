"""An organization's own prices. Setting one re-costs everything that it applies to: costs are computed when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import transaction

from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.domain.exchange import currency_named
from costwatch.domain.periods import expect_hour, hour_of
from costwatch.domain.pricing import Ranged, UnitPrice, without
from costwatch.pricing.models import Meter, Price, PriceBook
from costwatch.pricing.rates import Sku, refresh

CONTRACTED = "contracted prices"


@dataclass(frozen=True, slots=True)
class PriceRange:
    """From an hour on, until an hour; None: always was, from then on. Raises ValueError for what is no whole hour."""

    valid_from: datetime | None = None
    valid_until: datetime | None = None

    def __post_init__(self) -> None:
        for edge in (self.valid_from, self.valid_until):
            expect_hour(edge)


@transaction.atomic
def set_price(
    organization: Organization,
    sku: Sku,
    price: UnitPrice,
    period: PriceRange,
    *,
    source: str,
    approved_by: User | None = None,
) -> Price:
    """An organization's contracted price for a SKU over a range of hours.

    It takes the place of what was contracted in those hours. Without an end it holds until the next price that is
    already set, or for good. Rates are refreshed, and the change is in the audit log. In another currency than the
    organization's it needs exchange rates (exchange_rates.py). Raises ValueError for what is no currency.
    """
    currency = currency_named(price.currency)
    book, _ = PriceBook.objects.get_or_create(
        organization=organization, kind=PriceBook.Kind.CONTRACTED, name=CONTRACTED
    )
    PriceBook.objects.select_for_update().get(pk=book.pk)
    rows = list(_same_sku(book, sku))
    until = period.valid_until or _next_start(rows, period.valid_from)
    for row in rows:
        _make_room(row, period.valid_from, until)
    made = Price.objects.create(
        book=book,
        provider=sku.provider,
        model=sku.model,
        meter=sku.meter,
        service_tier=sku.service_tier,
        device_type=sku.device_type,
        unit_price=price.amount,
        unit_quantity=price.unit_quantity,
        currency=currency,
        valid_from=period.valid_from,
        valid_until=until,
        source=source,
        approved_by=approved_by,
    )
    _record(organization, made, rows, approved_by)
    refresh(organization.pk)
    return made


def _same_sku(book: PriceBook, sku: Sku) -> list[Price]:
    return list(
        book.prices.filter(
            provider__iexact=sku.provider,
            model__iexact=sku.model,
            meter=sku.meter,
            service_tier=sku.service_tier,
            device_type__iexact=sku.device_type,
        )
    )


def _next_start(rows: list[Price], start: datetime | None) -> datetime | None:
    starts = [row.valid_from for row in rows if row.valid_from is not None]
    return min((s for s in starts if start is None or s > start), default=None)


def _make_room(row: Price, start: datetime | None, until: datetime | None) -> None:
    """Cut a row back to what the range leaves of it: itself, shorter; two rows; or none."""
    ranged = Ranged(row.valid_from, row.valid_until, row)
    if not _overlap(ranged, start, until):
        return
    row.delete()
    pieces = without(ranged, start, until)
    for piece in pieces:
        row.pk = None
        row.valid_from, row.valid_until = piece.valid_from, piece.valid_until
        row.save(force_insert=True)


def _overlap(ranged: Ranged[Price], start: datetime | None, until: datetime | None) -> bool:
    before = ranged.valid_until is not None and start is not None and ranged.valid_until <= start
    after = ranged.valid_from is not None and until is not None and until <= ranged.valid_from
    return not before and not after


def _record(
    organization: Organization, made: Price, before: list[Price], actor: User | None
) -> None:
    AuditEvent.objects.create(
        organization=organization,
        actor=actor,
        action="price.set",
        target=made.sku[:200],
        details={
            "unit_price": f"{made.unit_price:f}",
            "per": made.unit_label,
            "currency": made.currency,
            "valid_from": made.valid_from.isoformat() if made.valid_from else None,
            "valid_until": made.valid_until.isoformat() if made.valid_until else None,
            "source": made.source,
            "before": [str(row) for row in before],
        },
    )


def hour_named(text: str) -> datetime:
    """The whole UTC hour that is written 2026-11-23 or 2026-11-23T09:00. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r}: expected a date or an hour, such as 2026-11-23 or 2026-11-23T09:00"
        ) from None
    if moment != hour_of(moment):
        raise ValueError(f"{text!r}: expected a whole hour, such as 2026-11-23T09:00")
    return moment


def meter_named(name: str) -> Meter:
    """Raises ValueError."""
    try:
        return Meter(name)
    except ValueError:
        known = ", ".join(meter for meter in Meter.values if meter != Meter.DEVICE_NS)
        raise ValueError(f"meter {name!r}: expected one of {known}") from None
