"""Exchange rates: what prices in other currencies need, what is there; loaded by finance and owners.

As for a price, nothing is saved before its effect was shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.pricing.exchange import foreign_currencies, max_age_days, rows_of
from costwatch.pricing.exchange_rates import set_rates
from costwatch.pricing.in_use import MissingRate, missing_rates
from costwatch.pricing.models import ExchangeRate
from costwatch.reports.repricing import preview_of_rates
from costwatch.web.months import month_shown
from costwatch.web.previews import digest_of
from costwatch.web.rate_forms import RatesForm
from costwatch.web.scope import Scope, show


@dataclass(frozen=True, slots=True)
class NeededPair:
    """A currency that prices in use have. latest: the newest rate of the month; missing: what its use lacks."""

    base: str
    latest: ExchangeRate | None
    missing: MissingRate | None


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    month = month_shown(request, scope.organization)
    rows = rows_of(scope.organization, month.period).select_related("approved_by")
    rates = list(rows.order_by("-date", "base"))
    return show(
        request,
        scope,
        "web/prices/rates.html",
        month=month,
        rates=rates,
        needed=_needed(scope.organization, month.period, rates),
        currency=scope.organization.currency,
        max_age_days=max_age_days(),
    )


def _needed(
    organization: Organization, period: Period, rates: Iterable[ExchangeRate]
) -> list[NeededPair]:
    latest: dict[str, ExchangeRate] = {}
    for rate in rates:
        latest.setdefault(rate.base, rate)
    currencies = foreign_currencies(organization)
    missing = missing_rates(organization, period) if currencies else {}
    return [NeededPair(base, latest.get(base), missing.get(base)) for base in currencies]


@require_http_methods(["GET", "POST"])
def load(request: HttpRequest, scope: Scope) -> HttpResponse:
    organization = scope.organization
    sent = request.method == "POST"
    form = RatesForm(*((request.POST, request.FILES) if sent else ()), organization=organization)
    context: dict[str, Any] = {"form": form, "currency": organization.currency}
    if sent and form.is_valid():
        text, rates = form.as_text, form.rates
        digest = digest_of(text)
        if request.POST.get("previewed") == digest:
            entered = set_rates(
                organization, rates, source="Exchange rates page", approved_by=scope.user
            )
            messages.success(
                request, f"Saved, and applied to all months that are not closed: {entered}."
            )
            return redirect("exchange-rates")
        context |= {
            "form": RatesForm(initial={"text": text}, organization=organization),
            "preview": preview_of_rates(organization, rates),
            "rates": len(rates),
            "digest": digest,
        }
    return show(
        request, scope, "web/prices/load_rates.html", 400 if form.errors else 200, **context
    )
