"""What enforced budgets have spent, kept for a few seconds, so that a decision need not add up a month.

    fresh       each budget's standing, not older than FRESH unless somebody else is just adding it up
    held        what reservations hold beside it
    limits_of   what a budget allows
    enforcement_of    all of it, for pages: what the next decision would be made on

A call is in the spending or in a hold, and never in neither: holds whose calls are in the rollups are looked for first,
then the spending is added up, and both are written together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from costwatch.budgets.evaluate import period_of, spending
from costwatch.budgets.models import Budget
from costwatch.budgets.reservation_models import Hold, Reservation, Standing
from costwatch.domain import money
from costwatch.domain.periods import Period

FRESH = timedelta(seconds=2)
_LOCKS = 7_305_001  # first of two numbers that tell our advisory locks from others
_BEFORE = timedelta(
    hours=25
)  # a call may have begun so long before it was reserved for, clocks included

# The calls that these reservations were for, once the rollups have them.
_IN_ROLLUPS = """
SELECT DISTINCT reservation.id FROM budgets_reservation AS reservation
  JOIN attribution_entry AS entry ON entry.organization_id = reservation.organization_id
                                 AND entry.call_id = reservation.call_id
  JOIN attribution_batch AS batch ON batch.id = entry.batch_id
 WHERE reservation.organization_id = %(organization_id)s AND reservation.call_id IS NOT NULL
   AND reservation.counted_at IS NULL AND entry.started_at BETWEEN %(first)s AND %(last)s
   AND batch.added_at IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Amounts above which calls are degraded or denied; None: they never are."""

    degrade_above: Decimal | None
    deny_above: Decimal | None


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What the next decision about a budget would be made on."""

    spent: Decimal
    held: Decimal
    as_of: datetime
    limits: Limits

    def told(self) -> dict[str, str | None]:
        """As JSON has it."""
        return {
            "spent": as_text(self.spent),
            "held": as_text(self.held),
            "as_of": self.as_of.isoformat(),
            "degrade_above": as_text(self.limits.degrade_above),
            "deny_above": as_text(self.limits.deny_above),
        }


def as_text(amount: Decimal | None) -> str | None:
    """All of its digits, and no zeros behind them."""
    return None if amount is None else f"{amount.normalize(money.EXACT):f}"


def enforcement_of(budget: Budget, now: datetime) -> Enforcement | None:
    """None where no decision asks this budget."""
    if not budget.active or (budget.degrade_at is None and budget.deny_at is None):
        return None
    fresh([budget], now)
    standing = Standing.objects.get(budget=budget)
    period = Period(standing.period_start, standing.period_end)
    return Enforcement(standing.spent, held(budget, period, now), standing.as_of, limits_of(budget))


def enforced() -> QuerySet[Budget]:
    """Budgets that a decision has to ask."""
    can_say_no = Q(degrade_at__isnull=False) | Q(deny_at__isnull=False)
    return Budget.objects.filter(can_say_no, active=True).select_related("organization", "team")


def limits_of(budget: Budget) -> Limits:
    """In the budget's currency."""
    return Limits(_part(budget, budget.degrade_at), _part(budget, budget.deny_at))


def _part(budget: Budget, percent: int | None) -> Decimal | None:
    return None if percent is None else money.EXACT.divide(budget.amount * percent, Decimal(100))


def fresh(budgets: Sequence[Budget], now: datetime) -> None:
    """See to it that each of these budgets has a standing of its period, and of not long ago."""
    known = Standing.objects.in_bulk([budget.pk for budget in budgets])
    for budget in budgets:
        standing = known.get(budget.pk)
        is_there = standing is not None and standing.period_start == period_of(budget, now).start
        if standing is None or not is_there or standing.as_of < now - FRESH:
            look(budget, now, wait=not is_there)


def look(budget: Budget, now: datetime, *, wait: bool = False) -> None:
    """Add a budget's spending up anew.

    wait   also where somebody else is doing so; else their number, which comes in a moment, does.
    """
    with transaction.atomic():
        if not _alone(budget, wait=wait):
            return
        as_of = timezone.now()
        counted = _counted(budget.organization_id, as_of)
        period = period_of(budget, now)
        spent = spending(budget, period)
        values = {
            "period_start": period.start,
            "period_end": period.end,
            "spent": spent.cost,
            "unpriced_calls": spent.unpriced_calls,
            "as_of": as_of,
        }
        Standing.objects.update_or_create(budget=budget, defaults=values)
        Hold.objects.filter(budget=budget, reservation__in=counted).update(until=as_of)
    _forget(counted, as_of)


def _alone(budget: Budget, *, wait: bool) -> bool:
    function = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s, %s)", [_LOCKS, budget.pk])
        return wait or bool(cursor.fetchone()[0])


def _counted(organization_id: int, now: datetime) -> list[UUID]:
    times = {"first": now - 2 * _BEFORE, "last": now + _BEFORE}
    with connection.cursor() as cursor:
        cursor.execute(_IN_ROLLUPS, {"organization_id": organization_id, **times})
        return [reservation_id for (reservation_id,) in cursor]


def _forget(counted: Sequence[UUID], now: datetime) -> None:
    """Those that hold nothing of any budget any more need not be looked for again."""
    held = Hold.objects.filter(reservation__in=counted, until__gt=now)
    done = Reservation.objects.filter(pk__in=counted)
    done.exclude(pk__in=held.values("reservation")).update(counted_at=now)


def held(budget: Budget, period: Period, now: datetime) -> Decimal:
    """What reservations hold of a budget now."""
    rows = Hold.objects.filter(budget=budget, until__gt=now, period_start=period.start)
    return rows.aggregate(held=Sum("amount"))["held"] or Decimal(0)
