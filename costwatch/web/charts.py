"""Figures for Plotly, as the JSON that charts.js draws.

Colours are the style sheet's variables, which charts.js looks up: so a figure is the same in light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import plotly.graph_objects as go

from costwatch.web.templatetags.units import money_text, symbol_of

SERIES = 8  # colours; what comes after them shares one


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a stack: amounts by the start of their day or hour."""

    label: str
    colour: int  # 1 to SERIES; 0 for the rest
    amounts: dict[datetime, Decimal]


def colour_of(number: int) -> str:
    return f"var(--series-{number})" if number else "var(--series-rest)"


def trend(
    series: Sequence[Series],
    starts: Sequence[datetime],
    zone: ZoneInfo,
    currency: str,
    *,
    hourly: bool,
) -> dict[str, Any]:
    """Stacked bars of cost, one at each start, in the time zone's wall time."""
    shown = "%Y-%m-%d %H:%M" if hourly else "%Y-%m-%d"
    at = [start.astimezone(zone).strftime(shown) for start in starts]
    bars = [_bar(one, at, starts, currency) for one in series]
    figure = go.Figure(data=bars, layout=_layout(currency, hourly=hourly))
    return figure.to_plotly_json()  # type: ignore[no-any-return]


def _bar(one: Series, at: Sequence[str], starts: Sequence[datetime], currency: str) -> go.Bar:
    amounts = [one.amounts.get(start, Decimal(0)) for start in starts]
    return go.Bar(
        name=one.label,
        x=at,
        y=[float(amount) for amount in amounts],  # only drawn with
        customdata=[money_text(amount, currency) for amount in amounts],
        hovertemplate="%{customdata}",
        marker={"color": colour_of(one.colour), "line": {"width": 0}},
    )


def _layout(currency: str, *, hourly: bool) -> go.Layout:
    axis = {"linecolor": "var(--line-strong)", "gridcolor": "var(--line)", "automargin": True}
    return go.Layout(
        template="none",
        barmode="stack",
        bargap=0.28,
        showlegend=False,
        dragmode=False,
        hovermode="x unified",
        hoverlabel={
            "bgcolor": "var(--surface)",
            "bordercolor": "var(--line-strong)",
            "font": {"color": "var(--ink)", "size": 12},
        },
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "var(--ink-faint)", "size": 12, "family": "system-ui, sans-serif"},
        xaxis={
            **axis,
            "type": "date",
            "showgrid": False,
            "fixedrange": True,
            "tickformat": "%H:%M\n%-d %b" if hourly else "%-d %b",
            "hoverformat": "%-d %B, %H:%M" if hourly else "%A, %-d %B",
        },
        yaxis={
            **axis,
            "zeroline": False,
            "showline": False,
            "fixedrange": True,
            "rangemode": "tozero",
            "nticks": 6,
            "tickprefix": symbol_of(currency),
            "tickformat": ",.4~r",
            "exponentformat": "none",
        },
    )
