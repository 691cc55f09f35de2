"""What sends, how much, and who pays for it by which rule; and what nobody pays for, to be emptied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, QueryDict
from django.views.decorators.http import require_GET

from costwatch.attribution.assignment import NOTHING, PATTERNS
from costwatch.attribution.models import Source
from costwatch.reports.ingest import overflows
from costwatch.reports.sources import Unpaid, explained, sources_used, unpaid
from costwatch.reports.sums import sum_of
from costwatch.web.months import month_shown
from costwatch.web.scope import Scope, show
from costwatch.web.sending import otlp_doors

SOURCES_AT_ONCE = 100
_SHOWN = 3  # of the sources that one rule would fit


@dataclass(frozen=True, slots=True)
class Gap:
    """What one rule would take out of what nobody pays, and where that rule is made."""

    unpaid: Unpaid
    share: Decimal | None  # of what nobody pays; None where that is zero
    rule: str  # the query of the page that makes rules

    @property
    def shown(self) -> tuple[Any, ...]:
        return self.unpaid.sources[:_SHOWN]

    @property
    def more(self) -> int:
        return len(self.unpaid.sources) - len(self.shown)


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    """The sources of a month, a page of them; the sums are of all that the filters leave."""
    month = month_shown(request, scope.organization)
    unattributed = request.GET.get("payer") == "unattributed"
    search = request.GET.get("search", "")
    found = sources_used(scope.organization, month.period, unattributed=unattributed, search=search)
    page = Paginator(found, SOURCES_AT_ONCE).get_page(request.GET.get("page"))
    return show(
        request,
        scope,
        "web/sources/index.html",
        month=month,
        page=page,
        rows=[
            (one, _rule_query(one.source))
            for one in explained(scope.organization, month.period, list(page))
        ],
        sources=len({one.source_id for one in found}),
        total=sum_of([one.sum for one in found]),
        currency=scope.organization.currency,
        overflows=overflows(scope.organization, month.period),
        unattributed=unattributed,
        search=search,
        asked=_query_without(request.GET, "page"),
        beside_month=_and(_query_without(request.GET, "page", "month")),
        otlp=otlp_doors(request),
    )


def _query_without(asked: QueryDict, *names: str) -> str:
    """What was asked, for a link that asks these names anew."""
    return urlencode(
        [(name, value) for name, value in asked.items() if name not in names and value]
    )


def _and(query: str) -> str:
    return f"&{query}" if query else ""


@require_GET
def unattributed(request: HttpRequest, scope: Scope) -> HttpResponse:
    """What nobody pays for, the dearest first, each with a rule to be made for it."""
    month = month_shown(request, scope.organization)
    found = unpaid(scope.organization, month.period)
    total = sum_of([one.sum for one in found])
    page = Paginator(found, SOURCES_AT_ONCE).get_page(request.GET.get("page"))
    return show(
        request,
        scope,
        "web/sources/unattributed.html",
        month=month,
        page=page,
        gaps=[_gap(one, total.cost) for one in page],
        total=total,
        sources=sum(len(one.sources) for one in found),
        currency=scope.organization.currency,
        asked=_query_without(request.GET, "page"),
    )


def _gap(one: Unpaid, everything: Decimal) -> Gap:
    said = {"service_name": one.service_name, "team_tag": one.team_tag}
    share = one.sum.cost / everything if everything else None
    return Gap(one, share, urlencode({**_rule_of(said, one.sources[0]), "back": "unattributed"}))


def _rule_of(said: Mapping[str, str], source: Source) -> dict[str, str | int]:
    """What the page that makes rules begins with: a rule for what says just this, and takes nothing else away.

    Where it says nothing at all, the key tells it apart.
    """
    fits: dict[str, str | int] = {name: value or NOTHING for name, value in said.items()}
    return fits if any(said.values()) else {**fits, "key": source.key_id}


def _rule_query(source: Source) -> str:
    return urlencode(_rule_of({name: getattr(source, name) for name in PATTERNS}, source))
