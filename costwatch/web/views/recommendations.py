"""What to change to pay less: what pays first, then what does not pay yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.dateparse import parse_datetime
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.views.decorators.http import require_GET, require_POST

from costwatch.recommendations.models import Recommendation
from costwatch.recommendations.queries import recommendations
from costwatch.web.scope import Scope, record, show
from costwatch.web.sending import otlp_doors
from costwatch.web.templatetags.units import (
    count_text,
    device_seconds_text,
    money_text,
    percent,
)


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation as it is read."""

    row: Recommendation
    evidence: list[tuple[str, str]]

    @property
    def pays(self) -> bool:
        return self.row.verdict == Recommendation.Verdict.PAYS


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    dismissed = request.GET.get("show") == "dismissed"
    found = recommendations(scope.organization, dismissed=dismissed)
    return show(
        request,
        scope,
        "web/recommendations/index.html",
        advice=[Advice(row, list(evidence_of(row))) for row in found],
        dismissed=dismissed,
        dismissed_count=recommendations(scope.organization, dismissed=True).count(),
        otlp=otlp_doors(request),
    )


@require_POST
def set_status(request: HttpRequest, scope: Scope, recommendation_id: int) -> HttpResponse:
    """Dismiss one, or bring it back."""
    row = get_object_or_404(Recommendation, organization=scope.organization, pk=recommendation_id)
    reopen = request.POST.get("status") == Recommendation.Status.OPEN
    row.status = Recommendation.Status.OPEN if reopen else Recommendation.Status.DISMISSED
    row.save(update_fields=["status"])
    record(scope, f"recommendation.{'reopened' if reopen else 'dismissed'}", row, kind=row.kind)
    messages.success(request, f"“{row.title}” is {'open again' if reopen else 'dismissed'}.")
    return redirect("recommendations")


def evidence_of(row: Recommendation) -> Iterator[tuple[str, str]]:
    """What an estimate rests on, in words and with units. Names carry their unit, which says how to write the value."""
    start, end = (row.evidence.get(f"window_{edge}") for edge in ("start", "end"))
    if start and end:
        yield "observed", f"{_moment(start)} to {_moment(end)}"
    for name, value in row.evidence.items():
        if name in {"window_start", "window_end", "window_hours"}:
            continue
        if isinstance(value, list):
            yield name.replace("_", " "), "; ".join(_entry(one) for one in value) or "none"
        else:
            yield _label(name), _written(name, value, row.currency)


def _label(name: str) -> str:
    return name.replace("_ns", "_time").replace("_", " ")


def _written(name: str, value: Any, currency: str) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "_ns" in name:
        return device_seconds_text(int(value))
    if name.endswith("share"):
        return percent(value)
    if name == "cost" or "saving" in name:
        return money_text(Decimal(str(value)), currency)
    return count_text(value) if isinstance(value, int) else str(value)


def _entry(one: Any) -> str:
    """A source, or whatever else a list of evidence holds, in one line."""
    if not isinstance(one, dict):
        return str(one)
    name = str(one.get("source", ""))
    rest = [
        f"{_written(key, value, '')} {_label(key)}"
        for key, value in one.items()
        if key not in {"source", "source_id"}
    ]
    return f"{name} ({', '.join(rest)})" if rest else name


def _moment(text: str) -> str:
    moment = parse_datetime(text)
    return date_format(localtime(moment), "j M Y, H:i") if moment else text
