"""Budgets: where each stands; made, changed and deleted by finance and owners."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.db import transaction
from django.forms.models import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from costwatch.accounts.models import Team
from costwatch.budgets.evaluate import BudgetState, state_of
from costwatch.budgets.models import Alert, Budget
from costwatch.budgets.standings import Enforcement, enforcement_of
from costwatch.web.forms import BudgetForm
from costwatch.web.scope import Scope, record, show

_SHOWN_ALERTS = 20
_RECORDED = (
    "name",
    "team",
    "feature",
    "model",
    "provider",
    "source",
    "amount",
    "period",
    "start_day",
    "thresholds",
    "forecast_thresholds",
    "degrade_at",
    "deny_at",
    "addresses",
    "active",
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget and where it stands."""

    budget: Budget
    state: BudgetState
    enforcement: Enforcement | None

    @property
    def level(self) -> str:
        """good, warn or bad: bad is overspent, warn is a crossed threshold or a forecast beyond the amount."""
        if self.state.spent >= self.state.amount:
            return "bad"
        beyond = (
            self.state.forecast is not None and self.state.forecast.expected > self.state.amount
        )
        return "warn" if beyond or self.state.crossed else "good"

    @property
    def scope(self) -> str:
        """What narrows the budget beside its team, for people."""
        budget = self.budget
        source = f"source {budget.source_id}" if budget.source_id else ""
        return ", ".join(filter(None, [budget.feature, budget.model, budget.provider, source]))

    @property
    def width(self) -> str:
        """Of the gauge's bar, in per cent."""
        return f"{min(self.state.fraction, Decimal(1)) * 100:.2f}"

    @property
    def passed(self) -> str:
        """How much of the period has passed, in per cent: where an even spender would stand."""
        period = self.state.period
        return f"{min((timezone.now() - period.start) / period.length, 1) * 100:.2f}"


def standings(budgets: Iterable[Budget], now: datetime) -> list[Standing]:
    return [
        Standing(budget, state_of(budget, now), enforcement_of(budget, now)) for budget in budgets
    ]


def budgets_of_team(scope: Scope, team: Team, now: datetime) -> list[Standing]:
    """The active budgets of just this team."""
    return standings(_budgets(scope).filter(team=team, active=True), now)


def _budgets(scope: Scope) -> Any:
    return Budget.objects.filter(organization=scope.organization).select_related(
        "team", "organization", "source"
    )


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    alerts = Alert.objects.filter(budget__organization=scope.organization)
    return show(
        request,
        scope,
        "web/budgets/index.html",
        standings=standings(_budgets(scope), timezone.now()),
        alerts=alerts.select_related("budget").prefetch_related("deliveries")[:_SHOWN_ALERTS],
    )


@require_http_methods(["GET", "POST"])
def create(request: HttpRequest, scope: Scope) -> HttpResponse:
    return _edit(request, scope, None)


@require_http_methods(["GET", "POST"])
def change(request: HttpRequest, scope: Scope, budget_id: int) -> HttpResponse:
    return _edit(request, scope, get_object_or_404(_budgets(scope), pk=budget_id))


def _edit(request: HttpRequest, scope: Scope, budget: Budget | None) -> HttpResponse:
    before = _recorded(budget) if budget else {}
    form = BudgetForm(request.POST or None, instance=budget, organization=scope.organization)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            saved = form.save()
            changes = {k: v for k, v in _recorded(saved).items() if before.get(k) != v}
            record(scope, "budget.changed" if budget else "budget.created", saved, **changes)
        messages.success(request, f"Saved. “{saved.name}” is evaluated within a minute.")
        return redirect("budgets")
    status = 400 if form.errors else 200
    return show(request, scope, "web/budgets/edit.html", status, form=form, budget=budget)


@require_POST
def delete(request: HttpRequest, scope: Scope, budget_id: int) -> HttpResponse:
    budget = get_object_or_404(_budgets(scope), pk=budget_id)
    with transaction.atomic():
        record(scope, "budget.deleted", budget, **_recorded(budget))
        budget.delete()
    messages.success(request, f"“{budget.name}” is deleted.")
    return redirect("budgets")


def _recorded(budget: Budget) -> dict[str, Any]:
    """For the audit log: plain JSON."""
    values = model_to_dict(budget, fields=_RECORDED)
    return {**values, "amount": f"{budget.amount.normalize():f}"}
