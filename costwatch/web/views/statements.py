"""Months and their statements: listed and read by everybody; moved by finance and owners.

What a move will do is said on a page of its own before it is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from django.contrib import messages
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from costwatch.accounts.models import AuditEvent
from costwatch.domain.periods import Period
from costwatch.pricing import cost
from costwatch.reports import close
from costwatch.reports.chargeback import adjustments, chargeback, of_team
from costwatch.reports.lines import Line
from costwatch.reports.models import State
from costwatch.reports.months import Standing, standing_of, standings
from costwatch.web.months import Month, month_named, month_shown
from costwatch.web.scope import Scope, show

_SHOWN_EVENTS = 20
_SHOWN_LINES = 500  # on a page; files have all of them
# Of the API's chargeback: its format, and what it is called here.
FILES = (
    ("xlsx", "Excel"),
    ("csv", "CSV"),
    ("json", "JSON"),
    ("pdf", "PDF"),
    ("focus-1.2", "FOCUS 1.2"),
    ("focus-1.2-parquet", "FOCUS 1.2 as Parquet"),
)
NOBODY = "unattributed"  # in the address, where a team's id would stand


@dataclass(frozen=True, slots=True)
class MonthRow:
    """One line of the list. cost is what was billed, of a closed month; else what was used until now."""

    standing: Standing
    title: str
    cost: Decimal
    currency: str
    unpriced: bool


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    """All months, the latest first."""
    found = standings(scope.organization, timezone.now())
    events = AuditEvent.objects.filter(organization=scope.organization, action__startswith="month.")
    return show(
        request,
        scope,
        "web/statements/index.html",
        months=[_row(scope, one) for one in reversed(found)],
        events=events.select_related("actor").order_by("-at", "-pk")[:_SHOWN_EVENTS],
    )


def _row(scope: Scope, standing: Standing) -> MonthRow:
    title = _title(scope, standing.period)
    if closing := standing.closing:
        return MonthRow(standing, title, closing.cost, closing.currency, closing.unpriced_lines > 0)
    used = cost.total(scope.organization, standing.period)
    return MonthRow(standing, title, used.cost, used.currency, used.unpriced_calls > 0)


def _title(scope: Scope, period: Period) -> str:
    return f"{period.start.astimezone(scope.zone):%B %Y}"


@require_GET
def month(request: HttpRequest, scope: Scope) -> HttpResponse:
    """What each team owes for a month, and adjustments to earlier ones."""
    shown = month_shown(request, scope.organization)
    standing = _standing(scope, shown)
    report = chargeback(scope.organization, shown.period)
    corrections = adjustments(report)
    return show(
        request,
        scope,
        "web/statements/month.html",
        month=shown,
        standing=standing,
        report=report,
        adjustments=_first(corrections),
        adjustments_count=len(corrections),
        files=FILES,
        next_name=_next_open(scope) if standing and not standing.closing else "",
    )


@require_GET
def statement(request: HttpRequest, scope: Scope) -> HttpResponse:
    """What one team owes for a month, line by line; for a printer as well."""
    shown = month_shown(request, scope.organization)
    asked = request.GET.get("team", NOBODY)
    team_id = _team_id(asked)
    report = of_team(chargeback(scope.organization, shown.period), team_id)
    if not report.teams:
        raise Http404
    lines = _first(report.lines)
    return show(
        request,
        scope,
        "web/statements/statement.html",
        month=shown,
        report=report,
        owed=report.teams[0],
        lines=lines,
        more=len(report.lines) - len(lines),
        files=FILES,
        of_team=f"&team={asked}",
    )


@require_http_methods(["GET", "POST"])
def move(request: HttpRequest, scope: Scope) -> HttpResponse:
    """Asked with GET, what taking a month to another state would do."""
    asked = request.POST if request.method == "POST" else request.GET
    shown = month_named(asked.get("month", ""), scope.organization)
    if asked.get("to") not in State.values:
        raise BadRequest(f"{asked.get('to')!r}: expected one of {', '.join(State.values)}")
    to, error = State(asked["to"]), ""
    if request.method == "POST":
        try:
            close.move(
                scope.organization, shown.name, to, scope.user, asked.get("reason", "")[:1000]
            )
        except close.CannotMove as refused:
            error = str(refused)
        else:
            messages.success(request, f"{shown.title} is {to.label.lower()}{_DONE[to]}")
            return redirect(f"{reverse('statements-month')}?month={shown.name}")
    return show(
        request,
        scope,
        "web/statements/move.html",
        409 if error else 200,
        **_about_move(scope, shown, to),
        error=error,
    )


_DONE = {
    State.OPEN: " again.",
    State.REVIEW: ": look at it, then close it.",
    State.CLOSED: ". Its statements are frozen.",
}


def _about_move(scope: Scope, shown: Month, to: State) -> dict[str, Any]:
    return {
        "month": shown,
        "standing": _standing(scope, shown),
        "to": to,
        "report": chargeback(scope.organization, shown.period),
    }


def _standing(scope: Scope, shown: Month) -> Standing | None:
    return standing_of(scope.organization, shown.name, timezone.now())


def _next_open(scope: Scope) -> str:
    """The month that corrections of closed ones go to."""
    known = standings(scope.organization, timezone.now())
    return next((one.name for one in known if one.is_next), "")


def _team_id(text: str) -> int | None:
    if text == NOBODY:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest(f"{text!r}: expected a team's id, or {NOBODY}")
    return int(text)


def _first(lines: Iterable[Line]) -> list[Line]:
    """As many as a page shows."""
    return list(islice(lines, _SHOWN_LINES))
