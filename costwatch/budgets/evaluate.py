"""Where a budget stands, and which thresholds were crossed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import transaction

from costwatch.accounts.teams import team_subtree
from costwatch.budgets.models import Alert, Budget, Delivery
from costwatch.domain import money
from costwatch.domain.forecast import RECENT_DAYS, Forecast, forecast
from costwatch.domain.periods import Period, day_of, month_of, quarter_of, week_of
from costwatch.pricing.cost import CostRow, Filters, costs, total

# Usage of a period's last minutes is added after its end: so long it can still cross a threshold of that period.
_LATE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """Where a budget stands at a moment, in its currency."""

    period: Period
    amount: Decimal
    currency: str
    spent: Decimal
    fraction: Decimal  # of the amount, to four decimals; above 1 it is overspent
    forecast: Forecast | None  # at the period's end; None: too few days are known
    crossed: tuple[int, ...]  # thresholds in percent, the smallest first
    unpriced_calls: int  # not in spent, since nobody knows what they cost


def state_of(budget: Budget, now: datetime) -> BudgetState:
    """What pages and the API show: the very number that alerts are decided on."""
    period = period_of(budget, now)
    spent = spending(budget, period)
    return BudgetState(
        period=period,
        amount=budget.amount,
        currency=budget.currency,
        spent=spent.cost,
        fraction=money.rounded(money.EXACT.divide(spent.cost, budget.amount), 4),
        forecast=_forecast(budget, period, now),
        crossed=_crossed(budget, spent.cost),
        unpriced_calls=spent.unpriced_calls,
    )


def period_of(budget: Budget, now: datetime) -> Period:
    """The period of a budget that a moment falls in, in its organization's time zone."""
    zone = budget.organization.time_zone
    match budget.period:
        case Budget.PeriodKind.DAY:
            return day_of(now, zone)
        case Budget.PeriodKind.WEEK:
            return week_of(now, zone, budget.start_day)
        case Budget.PeriodKind.QUARTER:
            return quarter_of(now, zone, budget.start_day)
        case _:
            return month_of(now, zone, budget.start_day)


def spending(budget: Budget, period: Period) -> CostRow:
    """What a budget's scope used in a period; without a team, everybody and nobody."""
    return total(budget.organization, period, _filters(budget))


def evaluate(organization_id: int, now: datetime) -> list[int]:
    """Write down each threshold that was crossed and not yet told; returns the ids of new deliveries.

    Safe beside itself: an alert is a unique row, and whoever writes it also writes its deliveries, in one transaction.
    Where several thresholds of a budget are crossed at once, the highest is told and the lower ones are only noted.
    A forecast is told only of thresholds that are not yet spent.
    """
    budgets = Budget.objects.filter(organization_id=organization_id, active=True)
    deliveries = []
    for budget in budgets.select_related("organization", "team"):
        for period in _open_periods(budget, now):
            deliveries += _compare(budget, period, now)
    return deliveries


def _open_periods(budget: Budget, now: datetime) -> list[Period]:
    """The current period, after the one that has just ended if the budget was there before its end."""
    current, before = period_of(budget, now), period_of(budget, now - _LATE)
    return [before, current] if budget.created_at < before.end <= current.start else [current]


def _compare(budget: Budget, period: Period, now: datetime) -> list[int]:
    spent = spending(budget, period).cost
    crossed = _crossed(budget, spent)
    deliveries = _note(budget, period, crossed, {"spent": spent}, now)
    if not budget.forecast_thresholds or now not in period:
        return deliveries
    if (expected := _forecast(budget, period, now)) is None:
        return deliveries
    ahead = _reached(budget, budget.forecast_thresholds, expected.expected)
    ahead = tuple(t for t in ahead if spent * 100 < budget.amount * t)
    figures = {"spent": spent, "expected": expected.expected}
    return deliveries + _note(budget, period, ahead, figures, now)


@transaction.atomic
def _note(
    budget: Budget,
    period: Period,
    crossed: tuple[int, ...],
    figures: dict[str, Decimal],
    now: datetime,
) -> list[int]:
    basis = Alert.Basis.FORECAST if "expected" in figures else Alert.Basis.ACTUAL
    once = {
        "budget": budget,
        "period_start": period.start,
        "period_end": period.end,
        "basis": basis,
    }
    told = set(Alert.objects.filter(**once).values_list("threshold", flat=True))
    facts = {"amount": budget.amount, "currency": budget.currency, "noticed_at": now, **figures}
    new = []
    for threshold in crossed:
        if threshold in told:
            continue
        alert, made = Alert.objects.get_or_create(**once, threshold=threshold, defaults=facts)
        new += [alert] if made else []
    return _address(budget, new[-1], now) if new else []


def _address(budget: Budget, alert: Alert, now: datetime) -> list[int]:
    made = Delivery.objects.bulk_create(
        Delivery(alert=alert, address=address, next_attempt_at=now)
        for address in budget.recipients()
    )
    return [delivery.pk for delivery in made]


def _crossed(budget: Budget, spent: Decimal) -> tuple[int, ...]:
    return _reached(budget, budget.thresholds, spent)


def _reached(budget: Budget, thresholds: list[int], cost: Decimal) -> tuple[int, ...]:
    # Compared without dividing: nothing is rounded over a threshold.
    return tuple(t for t in sorted(set(thresholds)) if cost * 100 >= budget.amount * t)


def _filters(budget: Budget) -> Filters:
    return Filters(
        team_ids=team_subtree(budget.team) if budget.team is not None else None,
        feature=budget.feature,
        model=budget.model,
        provider=budget.provider,
        source_id=budget.source_id,
    )


def _forecast(budget: Budget, period: Period, now: datetime) -> Forecast | None:
    zone = ZoneInfo(budget.organization.time_zone)
    today = now.astimezone(zone).date()
    since = min(period.start, now - timedelta(days=RECENT_DAYS))
    days = _days(budget, Period(since, period.end), zone)
    spent_today = days.pop(today, Decimal(0))
    return forecast(
        _without_gaps(days, today),
        spent_today,
        today,
        (period.start.astimezone(zone).date(), period.dates(zone.key)[-1]),
    )


def _days(budget: Budget, period: Period, zone: ZoneInfo) -> dict[date, Decimal]:
    days: dict[date, Decimal] = defaultdict(Decimal)
    for row in costs(budget.organization, period, interval="day", filters=_filters(budget)):
        assert row.start is not None  # asked for by the interval
        days[row.start.astimezone(zone).date()] = row.cost
    return days


def _without_gaps(days: dict[date, Decimal], today: date) -> dict[date, Decimal]:
    """From the first day of use on, a day without use is a day that cost nothing."""
    if not days:
        return {}
    first = min(days)
    every = (first + timedelta(days=n) for n in range((today - first).days))
    return {day: days.get(day, Decimal(0)) for day in every}
