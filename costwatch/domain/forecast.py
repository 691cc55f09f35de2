"""What a period will have cost at its end, from its days so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from statistics import median

from costwatch.domain.money import total

FEWEST_DAYS = 3  # fewer say nothing about a day's spread
RECENT_DAYS = 28  # what is older belongs to another level of use
_MAD_TO_SIGMA = Decimal("1.4826")  # of a normal distribution
_TEN_PERCENT_TAIL = Decimal("1.2816")  # its 90th percentile: an interval of 80 %


@dataclass(frozen=True, slots=True)
class Forecast:
    """The period's total; with a probability of about 80 % it lies between low and high."""

    expected: Decimal
    low: Decimal
    high: Decimal


def forecast(
    days: Mapping[date, Decimal], spent_today: Decimal, today: date, period: tuple[date, date]
) -> Forecast | None:
    """The total of a period at its end; None when fewer than FEWEST_DAYS whole days are known.

    days     amounts of whole days before today, also of earlier periods. A day that is missing is not known.
    period   its first and last day, both included; today is one of them.

    A day to come costs the median of its weekday, where that was seen thrice, else the median of all: one expensive
    day moves neither. The interval takes the days' deviations from this (by their median) as independent.
    """
    known = sorted(day for day in days if day < today)
    recent = {day: days[day] for day in known[-RECENT_DAYS:]}
    if len(recent) < FEWEST_DAYS:
        return None
    first, last = period
    before = (amount for day, amount in days.items() if first <= day < today)
    spent = total([spent_today, *before])
    rest_of_today = max(Decimal(0), _typical(recent, today) - spent_today)
    to_come = [today + timedelta(days=n) for n in range(1, (last - today).days + 1)]
    expected = spent + rest_of_today + total(_typical(recent, day) for day in to_come)
    spread = _spread(recent) * _TEN_PERCENT_TAIL * Decimal(len(to_come) + 1).sqrt()
    return Forecast(expected, max(spent, expected - spread), expected + spread)


def _typical(days: Mapping[date, Decimal], day: date) -> Decimal:
    same_weekday = [amount for d, amount in days.items() if d.weekday() == day.weekday()]
    return median(same_weekday if len(same_weekday) > 2 else list(days.values()))


def _spread(days: Mapping[date, Decimal]) -> Decimal:
    """The standard deviation of a day around what was to be expected, robustly."""
    deviations = [abs(amount - _typical(days, d)) for d, amount in days.items()]
    return median(deviations) * _MAD_TO_SIGMA
