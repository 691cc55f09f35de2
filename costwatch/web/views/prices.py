"""Prices: what was used without one, what was used at which one; set by finance and owners.

Of a team the same page says what its cost is made of: quantity × price, who set the price, and the calls.

Nothing is saved before its effect was shown: a form is sent to be previewed, and then, unchanged, to be saved.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_GET, require_http_methods

from costwatch.accounts.teams import team_subtree
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.pricing.cost import Filters
from costwatch.pricing.in_use import skus_used
from costwatch.pricing.prices import set_price
from costwatch.reports.repricing import preview_of_price
from costwatch.web.months import month_shown
from costwatch.web.previews import digest_of
from costwatch.web.price_forms import PriceForm
from costwatch.web.scope import Scope, show

UNATTRIBUTED = "unattributed"
_LONGEST_ID = 18
_PREFILLED = (
    "provider",
    "model",
    "meter",
    "service_tier",
    "device_type",
    "amount",
    "currency",
    "valid_from",
    "valid_until",
)


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    month = month_shown(request, scope.organization)
    team, filters = _paid_by(request, scope)
    uses = skus_used(scope.organization, month.period, filters)
    return show(
        request,
        scope,
        "web/prices/index.html",
        month=month,
        unpriced=[use for use in uses if use.price is None],
        unrated=[use for use in uses if use.missing_rate],
        priced=[use for use in uses if use.is_known],
        total=money.total(use.cost for use in uses),
        team=team,
        beside_month=f"&team={request.GET['team']}" if team else "",
        calls_asked=_calls_of(scope, month.period, request.GET.get("team", "")),
        currency=scope.organization.currency,
    )


def _calls_of(scope: Scope, period: Period, team: str) -> str:
    """The part of the calls page's address that says whose, and when."""
    days = period.dates(scope.organization.time_zone)
    payer = {"payer" if team == UNATTRIBUTED else "team": team} if team else {}
    return urlencode({**payer, "start": days[0].isoformat(), "end": days[-1].isoformat()})


def _paid_by(request: HttpRequest, scope: Scope) -> tuple[str, Filters]:
    """Whose use is shown, by name, and the filter for it: a team's with those below it, or what nobody pays; empty: all."""
    asked = request.GET.get("team", "")
    if not asked:
        return "", Filters()
    if asked == UNATTRIBUTED:
        return UNATTRIBUTED, Filters(unattributed=True)
    if not asked.isdecimal() or len(asked) > _LONGEST_ID:
        raise Http404
    team = get_object_or_404(scope.organization.teams, pk=int(asked))
    return team.name, Filters(team_ids=team_subtree(team))


@require_http_methods(["GET", "POST"])
def change(request: HttpRequest, scope: Scope) -> HttpResponse:
    """A contracted price; the address may say what the form starts with. Asked with an amount, its effect is shown."""
    initial = {name: request.GET[name] for name in _PREFILLED if request.GET.get(name)}
    sent: Any = request.POST or (initial if "amount" in initial else None)
    form = PriceForm(sent, initial=initial, organization=scope.organization)
    context: dict[str, Any] = {"form": form}
    if sent is not None and form.is_valid():
        asked = (form.sku, form.price, form.period)
        digest = digest_of([form.cleaned_data[name] for name in _PREFILLED])
        if request.POST.get("previewed") == digest:
            made = set_price(
                scope.organization, *asked, source="Prices page", approved_by=scope.user
            )
            messages.success(
                request, f"Set, and applied to all months that are not closed: {made}."
            )
            return redirect("prices")
        context |= {"preview": preview_of_price(scope.organization, *asked), "digest": digest}
    return show(request, scope, "web/prices/set.html", 400 if form.errors else 200, **context)
