"""Single requests, and one of them from everybody's point of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_GET

from costwatch.accounts.teams import team_subtree
from costwatch.attribution import calls, content
from costwatch.attribution.calls import BadCursor, Call, CallPage
from costwatch.pricing.cost import CallCost, cost_of_calls
from costwatch.web.forms import CallsForm
from costwatch.web.scope import Scope, show
from costwatch.web.sending import otlp_doors

CALLS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Priced:
    """A call and what it cost."""

    call: Call
    cost: CallCost


@dataclass(frozen=True, slots=True)
class Timing:
    """One measure of a call as each observation reports it, in their order; None: not reported."""

    name: str
    values: list[int | None]


# Fields of Observation that are times, by what people call them.
TIMINGS = (
    ("Queue", "queue_ns"),
    ("Prefill", "prefill_ns"),
    ("Decode", "decode_ns"),
    ("Time to first token", "time_to_first_token_ns"),
    ("Time per output token", "time_per_output_token_ns"),
    ("Device time", "device_ns"),
    ("… its own work alone (marginal)", "device_ns_marginal"),
    ("… with nobody else in the batch", "device_ns_alone"),
)
TOKENS = (
    ("Input, computed", "input_tokens"),
    ("Input, read from a cache", "cache_read_input_tokens"),
    ("Input, written to a cache", "cache_write_input_tokens"),
    ("Output", "output_tokens"),
    ("… of it reasoning", "reasoning_output_tokens"),
)


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    """The calls that the filters leave, latest first; with `cursor` only the rows after it, for htmx to add."""
    organization = scope.organization
    form = CallsForm(request.GET, organization=organization)
    cursor = request.GET.get("cursor", "")
    page = _page(scope, form, cursor) if form.is_valid() else CallPage([], "")
    asked = {name: value for name, value in request.GET.items() if name != "cursor" and value}
    context: dict[str, Any] = {
        "form": form,
        "rows": _priced(scope, page.calls),
        "more": urlencode({**asked, "cursor": page.next_cursor}) if page.next_cursor else "",
        "filtered": bool(asked),
        "otlp": otlp_doors(request),
    }
    template = "web/calls/_rows.html" if cursor else "web/calls/index.html"
    return show(request, scope, template, 200 if form.is_valid() else 400, **context)


def _page(scope: Scope, form: CallsForm, cursor: str) -> CallPage:
    team = form.cleaned_data["team"]
    try:
        return calls.page(
            scope.organization,
            form.period,
            team_ids=team_subtree(team) if team else None,
            unattributed=form.cleaned_data["payer"] == "unattributed",
            model=form.cleaned_data["model"],
            feature=form.cleaned_data["feature"],
            cursor=cursor,
            limit=CALLS_AT_ONCE,
        )
    except BadCursor as error:
        raise BadRequest(str(error)) from error


def _priced(scope: Scope, calls: list[Call]) -> list[Priced]:
    costs = cost_of_calls(scope.organization, [call.entry for call in calls])
    return [Priced(call, costs[call.call_id]) for call in calls]


@require_GET
def call(request: HttpRequest, scope: Scope, call_id: UUID) -> HttpResponse:
    detail = calls.detail(scope.organization, call_id)
    if detail is None:
        raise Http404(f"no call {call_id}")
    [priced] = _priced(scope, [detail.call])
    seen = detail.observations
    may_read_content = scope.membership.may_read_content(detail.call.team_id)
    page = show(
        request,
        scope,
        "web/calls/call.html",
        call=detail.call,
        entry=detail.call.entry,
        cost=priced.cost,
        detail=detail,
        observations=seen,
        tokens=[(name, getattr(detail.call, field)) for name, field in TOKENS],
        timings=[
            Timing("Whole span", [_length_ns(one) for one in seen]),
            *_reported(seen),
        ],
        may_read_content=may_read_content,
        contents=content.of_observations(scope.organization, seen) if may_read_content else [],
    )
    if scope.organization.content_retention_days:
        add_never_cache_headers(page)
    return page


def _length_ns(observation: dict[str, Any]) -> int:
    return int(observation["end_unix_ns"] - observation["start_unix_ns"])


def _reported(seen: list[dict[str, Any]]) -> list[Timing]:
    """The measures that anybody reported."""
    timings = [Timing(name, [one[field] for one in seen]) for name, field in TIMINGS]
    return [timing for timing in timings if any(v is not None for v in timing.values)]
