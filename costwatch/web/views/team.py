"""One team with what is below it: what it cost, for which features, on which models, and its budgets."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET

from costwatch.accounts.models import Team
from costwatch.accounts.teams import team_subtree
from costwatch.attribution import queries
from costwatch.attribution.models import LatencyHour
from costwatch.pricing import cost
from costwatch.pricing.cost import CostRow, Dimension, Filters
from costwatch.web.lines import colours_of, lines_by, sum_of, team_lines
from costwatch.web.months import Month, month_shown
from costwatch.web.scope import Scope, show
from costwatch.web.trend import figure_of, series_of, trend_of
from costwatch.web.views.budgets import budgets_of_team
from costwatch.web.views.overview import measures


@require_GET
def team(request: HttpRequest, scope: Scope, team_id: int) -> HttpResponse:
    found = get_object_or_404(scope.organization.teams.select_related("parent"), pk=team_id)
    month = month_shown(request, scope.organization)
    return show(request, scope, "web/team/index.html", **_context(scope, month, found))


def _context(scope: Scope, month: Month, team: Team) -> dict[str, Any]:
    organization, period = scope.organization, month.period
    teams = list(organization.teams.all())
    ids = team_subtree(team)
    filters = Filters(team_ids=ids)
    # Departments are cut by who spent it, single teams by what for.
    cut = Dimension.TEAM if len(ids) > 1 else Dimension.FEATURE
    trend = trend_of(
        lambda interval: cost.costs(
            organization, period, group_by=(cut,), interval=interval, filters=filters
        ),
        month,
        scope,
    )
    colours = colours_of({key: sum_of(rows) for key, rows in _by(cut, trend.rows).items()})
    series = series_of(trend, cut, colours, "Others")
    latency = queries.histograms(organization, period, by="team", team_ids=ids)
    overall = queries.percentiles_of(latency.values())
    features = cost.costs(organization, period, group_by=(Dimension.FEATURE,), filters=filters)
    models = cost.costs(
        organization, period, group_by=(Dimension.MODEL, Dimension.PROVIDER), filters=filters
    )
    return {
        "team": team,
        "month": month,
        "budgets": budgets_of_team(scope, team, month.now) if month.is_current else [],
        "currency": organization.currency,
        "used": sum_of(trend.rows),
        "below": team_lines(teams, trend.rows, latency, root=team) if cut is Dimension.TEAM else [],
        "features": lines_by(
            features,
            Dimension.FEATURE,
            latency=queries.latency(organization, period, by="feature", team_ids=ids),
        ),
        "models": lines_by(
            models,
            Dimension.MODEL,
            detail=Dimension.PROVIDER,
            latency=queries.latency(organization, period, by="model", team_ids=ids),
        ),
        "feature_colours": colours if cut is Dimension.FEATURE else {},
        "series": series,
        "trend": figure_of(series, trend, scope),
        "hourly": trend.hourly,
        "latency": measures(overall),
        "first_token": overall.get(LatencyHour.Measure.TIME_TO_FIRST_TOKEN),
    }


def _by(dimension: Dimension, rows: list[CostRow]) -> dict[Any, list[CostRow]]:
    grouped: dict[Any, list[CostRow]] = defaultdict(list)
    for row in rows:
        grouped[row.key[dimension]].append(row)
    return grouped
