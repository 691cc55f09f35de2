"""One's own devices: pools, their bills, who used them and who carries the rest. Changed by finance and owners.

A policy is not saved before its effect was shown: the form is sent to be previewed, and then, unchanged, to be saved.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods

from costwatch.domain.idle import Policy
from costwatch.domain.money import total
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.pricing.capacity import capacity_charges
from costwatch.pricing.device_prices import set_device_price
from costwatch.pricing.loaded import bills, loads, moved
from costwatch.pricing.models import IdlePolicy, PoolRule
from costwatch.pricing.pools import make_pool, set_policy
from costwatch.pricing.prices import PriceRange
from costwatch.pricing.rates import device_sku
from costwatch.pricing.unit_costs import api_named, unit_costs
from costwatch.reports.repricing import preview_of_price
from costwatch.web.capacity_forms import POLICIES, DevicePriceForm, PolicyForm, PoolForm
from costwatch.web.months import month_shown
from costwatch.web.previews import digest_of
from costwatch.web.scope import Scope, show


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    month = month_shown(request, scope.organization)
    charges = capacity_charges(scope.organization, month.period)
    found = bills(charges)
    against = request.GET.get("against", "").strip()
    api = api_named(against)
    return show(
        request,
        scope,
        "web/capacity/index.html",
        month=month,
        bills=found,
        loads=loads(scope.organization, charges),
        total=total(bill.load.loaded_cost for bill in found),
        units=unit_costs(scope.organization, month.period, charges, api),
        against=against,
        against_known=api is not None,
        currency=scope.organization.currency,
        rules=PoolRule.objects.filter(organization=scope.organization).select_related("pool"),
        policies=_policies(scope),
    )


def _policies(scope: Scope) -> list[tuple[IdlePolicy, str]]:
    """With what each says for people."""
    rows = IdlePolicy.objects.filter(organization=scope.organization)
    ordered = rows.select_related("pool").prefetch_related("reservations__team")
    return [
        (row, POLICIES[Policy(row.policy)]) for row in ordered.order_by("pool__name", "valid_from")
    ]


@require_http_methods(["GET", "POST"])
def policy(request: HttpRequest, scope: Scope) -> HttpResponse:
    """Sent once, what a policy would move in the month shown; sent again with what was shown, it is set."""
    form = PolicyForm(request.POST or None, organization=scope.organization)
    month = month_shown(request, scope.organization)
    context: dict[str, Any] = {"form": form, "month": month}
    if request.method == "POST" and form.is_valid():
        said, digest = form.cleaned_data, _digest(form)
        if request.POST.get("previewed") == digest:
            row = set_policy(
                scope.organization,
                said["pool"],
                Policy(said["policy"]),
                said["valid_from"],
                form.percents,
                actor=scope.user,
            )
            messages.success(request, f"Set, and applied to all months that are not closed: {row}.")
            return redirect("capacity")
        pool_id = said["pool"].pk if said["pool"] else None
        context |= {
            "digest": digest,
            "currency": scope.organization.currency,
            "moved": moved(
                scope.organization, month.period, pool_id, form.held, said["valid_from"]
            ),
        }
    return show(request, scope, "web/capacity/policy.html", 400 if form.errors else 200, **context)


def _digest(form: PolicyForm) -> str:
    pool = form.cleaned_data["pool"]
    said = [pool.pk if pool else None, form.cleaned_data["policy"], form.cleaned_data["valid_from"]]
    percents = sorted((team.pk, percent) for team, percent in form.percents.items())
    return digest_of([*said, percents])


@require_http_methods(["GET", "POST"])
def pool(request: HttpRequest, scope: Scope) -> HttpResponse:
    form = PoolForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = make_pool(scope.organization, **form.cleaned_data, actor=scope.user)
        except ValueError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"These devices are in the pool {made} now.")
            return redirect("capacity")
    return show(request, scope, "web/capacity/pool.html", 400 if form.errors else 200, form=form)


@require_http_methods(["GET", "POST"])
def price(request: HttpRequest, scope: Scope) -> HttpResponse:
    """A device's price from its terms; as for a policy, set when it comes again with what was shown."""
    organization = scope.organization
    form = DevicePriceForm(request.POST or None, currency=organization.currency)
    context: dict[str, Any] = {"form": form, "currency": organization.currency}
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        terms, period = said["terms"], PriceRange(said["valid_from"])
        digest = digest_of([said["device_type"], terms, period])
        if request.POST.get("previewed") == digest:
            made = set_device_price(
                organization, said["device_type"], terms, period, approved_by=scope.user
            )
            messages.success(
                request, f"Set, and applied to all months that are not closed: {made}."
            )
            return redirect("capacity")
        sku = device_sku(said["device_type"])
        context |= {
            "digest": digest,
            "terms": terms,
            "hourly": terms.unit_price.cost(NS_PER_HOUR),
            "preview": preview_of_price(organization, sku, terms.unit_price, period),
        }
    return show(request, scope, "web/capacity/price.html", 400 if form.errors else 200, **context)
