"""A month's cost over time: by day, or by hour where the first use is too recent for days."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from costwatch.domain.money import total
from costwatch.domain.periods import Period, hour_of
from costwatch.pricing.cost import CostRow, Dimension, Interval
from costwatch.web import charts
from costwatch.web.charts import Series
from costwatch.web.months import Month
from costwatch.web.scope import Scope

_YOUNG = timedelta(days=3)
_FEWEST_HOURS = timedelta(hours=12)  # so that the first hour is not one bar as wide as the page

Ask = Callable[[Interval], list[CostRow]]


@dataclass(frozen=True, slots=True)
class Trend:
    rows: list[CostRow]
    starts: list[datetime]
    hourly: bool


def trend_of(ask: Ask, month: Month, scope: Scope) -> Trend:
    """What `ask` returns for the interval that suits the month, and the starts to draw, also of empty ones."""
    rows = ask("day")
    first = min((row.start for row in rows if row.start), default=month.period.start)
    if month.is_current and month.now - first < _YOUNG:
        rows = ask("hour")
        first = min((row.start for row in rows if row.start), default=month.now)
        return Trend(
            rows,
            _hours(max(month.period.start, min(first, month.now - _FEWEST_HOURS)), month.now),
            True,
        )
    days = [day.start for day in month.seen.days(scope.organization.time_zone)]
    return Trend(rows, days, False)


def _hours(start: datetime, end: datetime) -> list[datetime]:
    first = hour_of(start)
    return [first + timedelta(hours=n) for n in range(int((end - first) / timedelta(hours=1)) + 1)]


def series_of(
    trend: Trend, dimension: Dimension, colours: Mapping[Any, int], others: str
) -> list[Series]:
    """One series for each coloured value of the dimension, and one for all others, where they cost anything."""
    amounts: dict[Any, dict[datetime, list[Decimal]]] = defaultdict(lambda: defaultdict(list))
    labels: dict[Any, str] = {}
    for row in trend.rows:
        if row.start is None:
            continue
        key = row.key[dimension] if row.key[dimension] in colours else None
        labels[key] = row.label[dimension] if key is not None else others
        amounts[key][row.start].append(row.cost)
    ordered = sorted(amounts, key=lambda key: colours.get(key, charts.SERIES + 1))
    return [
        Series(
            labels[key],
            colours.get(key, 0),
            {start: total(costs) for start, costs in amounts[key].items()},
        )
        for key in ordered
    ]


def figure_of(series: Sequence[Series], trend: Trend, scope: Scope) -> dict[str, Any]:
    return charts.trend(
        series, trend.starts, scope.zone, scope.organization.currency, hourly=trend.hourly
    )


def same_part_of(earlier: Period, month: Month) -> Period:
    """As much of an earlier month as has passed of this one."""
    passed = month.seen.length
    return Period(earlier.start, min(earlier.start + passed, earlier.end))
