"""The first page: what this month cost, who spent it, how fast it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from costwatch.accounts.models import Organization
from costwatch.attribution import queries
from costwatch.attribution.models import LatencyHour
from costwatch.attribution.queries import CapacityRow, Percentiles
from costwatch.domain.forecast import FEWEST_DAYS, Forecast, forecast
from costwatch.domain.money import total
from costwatch.domain.periods import Period, day_of, previous_month
from costwatch.pricing import cost
from costwatch.pricing.cost import CostRow, Dimension
from costwatch.pricing.rates import is_pending
from costwatch.web.lines import UNATTRIBUTED, Use, colours_of, lines_by, sum_of, team_lines
from costwatch.web.months import Month, month_shown
from costwatch.web.scope import Scope, show
from costwatch.web.sending import otlp_doors
from costwatch.web.trend import figure_of, same_part_of, series_of, trend_of

TOP_MODELS = 8
MEASURES = (
    ("Time to first token", LatencyHour.Measure.TIME_TO_FIRST_TOKEN),
    ("Time per output token", LatencyHour.Measure.TIME_PER_OUTPUT_TOKEN),
    ("Waiting in the queue", LatencyHour.Measure.QUEUE),
    ("Whole call", LatencyHour.Measure.DURATION),
)
_NS_PER_HOUR = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Device:
    """A device's time as shares of its wall time, and where the pieces of its bar begin and end, in per cent."""

    row: CapacityRow
    attributed: float
    unattributed: float
    idle: float

    @property
    def attributed_end(self) -> str:
        return f"{self.attributed * 100:.3f}"

    @property
    def unattributed_width(self) -> str:
        return f"{self.unattributed * 100:.3f}"

    @property
    def unattributed_end(self) -> str:
        return f"{(self.attributed + self.unattributed) * 100:.3f}"

    @property
    def idle_width(self) -> str:
        return f"{self.idle * 100:.3f}"


@require_GET
def overview(request: HttpRequest, scope: Scope) -> HttpResponse:
    """The whole page; with ?part=live what a refresh puts in its middle."""
    month = month_shown(request, scope.organization)
    context = {"month": month, "otlp": otlp_doors(request), **_context(scope, month)}
    template = "_live.html" if request.GET.get("part") == "live" else "index.html"
    return show(request, scope, f"web/overview/{template}", **context)


def _context(scope: Scope, month: Month) -> dict[str, Any]:
    organization = scope.organization
    trend = trend_of(
        lambda interval: cost.costs(
            organization, month.period, group_by=(Dimension.TEAM,), interval=interval
        ),
        month,
        scope,
    )
    used = sum_of(trend.rows)
    by_team: dict[Any, list[CostRow]] = {}
    for row in trend.rows:
        by_team.setdefault(row.key[Dimension.TEAM], []).append(row)
    colours = colours_of({key: sum_of(rows) for key, rows in by_team.items()})
    series = series_of(trend, Dimension.TEAM, colours, _rest(by_team, colours))
    models = lines_by(
        cost.costs(organization, month.period, group_by=(Dimension.MODEL, Dimension.PROVIDER)),
        Dimension.MODEL,
        detail=Dimension.PROVIDER,
        latency=queries.latency(organization, month.period, by="model"),
    )
    latency = queries.histograms(organization, month.period, by="team")
    overall = queries.percentiles_of(latency.values())
    return {
        "currency": organization.currency,
        "used": used,
        "teams": team_lines(organization.teams.all(), trend.rows, latency),
        "models": models[:TOP_MODELS],
        "rating": bool(used.unpriced_calls) and is_pending(organization.pk),
        "unpriced": [line for line in models if line.use.unpriced_calls],
        "series": series,
        "trend": figure_of(series, trend, scope),
        "hourly": trend.hourly,
        "latency": measures(overall),
        "first_token": overall.get(LatencyHour.Measure.TIME_TO_FIRST_TOKEN),
        "capacity": [_device(row) for row in queries.capacity(organization, month.period)],
        "device_hours": f"{used.device_ns / _NS_PER_HOUR:,.2f}",
        "cost_per_call": _per_call(used),
        # A cost that nobody knows is no cost of zero to continue.
        "forecast": _forecast(organization, month, trend.rows)
        if month.is_current and used.shown_cost is not None
        else None,
        "fewest_days": FEWEST_DAYS,
        **_before(organization, month),
    }


def measures(found: dict[str, Percentiles]) -> list[tuple[str, Percentiles | None]]:
    """Every measure by its name for people; None where no call reported it."""
    return [(name, found.get(measure)) for name, measure in MEASURES]


def _rest(by_team: dict[Any, list[CostRow]], colours: dict[Any, int]) -> str:
    """What the colourless series is called."""
    others = [key for key in by_team if key is not None and key not in colours]
    return UNATTRIBUTED if not others else "Other teams and unattributed"


def _per_call(used: Use) -> Decimal | None:
    return used.cost / used.calls if used.calls and used.shown_cost is not None else None


def _device(row: CapacityRow) -> Device:
    wall = row.wall_ns or 1
    return Device(row, row.attributed_ns / wall, row.unattributed_ns / wall, row.idle_ns / wall)


def _before(organization: Organization, month: Month) -> dict[str, Any]:
    """What the month before had cost at the same point; None where nothing was used in it."""
    earlier = previous_month(month.period, organization.time_zone)
    before = cost.total(organization, same_part_of(earlier, month))
    words = "last month by then" if month.is_current else "the month before"
    use = sum_of([before])
    return {"previous_cost": use.shown_cost if use.calls else None, "previous_words": words}


def _forecast(organization: Organization, month: Month, rows: Iterable[CostRow]) -> Forecast | None:
    """rows: what the month cost, by day or by hour. Only the weeks before it are asked for: hours are many."""
    zone = organization.time_zone
    today = day_of(month.now, zone)
    first = today.start - timedelta(days=35)  # before any beginning of today's month
    earlier = cost.costs(organization, Period(first, month.period.start), interval="day")
    costs: dict[date, list[Decimal]] = defaultdict(list)
    for row in (*earlier, *rows):
        costs[_date(row, zone)].append(row.cost)
    spent = {day: total(several) for day, several in costs.items()}
    dates = month.period.dates(zone)
    this = today.dates(zone)[0]
    before = [
        this - timedelta(days=n) for n in range(1, (this - min(spent, default=this)).days + 1)
    ]
    # From the first day of use on, a day without use is a day that cost nothing.
    days = {day: spent.get(day, Decimal(0)) for day in before}
    return forecast(days, spent.get(this, Decimal(0)), this, (dates[0], dates[-1]))


def _date(row: CostRow, zone: str) -> date:
    assert row.start is not None, "asked for by the interval"
    return row.start.astimezone(ZoneInfo(zone)).date()
