"""What each ingest key brings, what became of it, and what of it nobody can price."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from costwatch.reports.ingest import KeyHealth, Said, ingest_health
from costwatch.web.months import month_shown
from costwatch.web.scope import Scope, show
from costwatch.web.sending import otlp_doors

_BAR_HEIGHT = 22


@dataclass(frozen=True, slots=True)
class Bar:
    """An hour in the little chart of a key; in its coordinates."""

    x: int
    y: str
    height: str


@dataclass(frozen=True, slots=True)
class Row:
    health: KeyHealth
    refused: int
    contradictions: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that a person may want to look at."""

    health: KeyHealth
    what: str
    level: str
    said: Said


# What is told of a key, by the field that holds it, and how bad it is.
_REMARKS = (
    ("refused", "refused", "tag--bad"),
    ("contradictions", "contradicts itself", "tag--warn"),
    ("repeated_ids", "ids repeat", "tag--warn"),
    ("held_up", "held up", "tag--warn"),
    ("overflowed", "too many values", "tag--warn"),
    ("dropped", "not needed", ""),
    ("token_metrics", "token metrics", ""),
)


@require_GET
def health(request: HttpRequest, scope: Scope) -> HttpResponse:
    month = month_shown(request, scope.organization)
    found = ingest_health(scope.organization, month.period, month.now)
    return show(
        request,
        scope,
        "web/ingest/index.html",
        month=month,
        rows=[_row(one) for one in found.keys],
        remarks=_remarks(found.keys),
        unpriced=found.unpriced,
        per_minute=sum(one.per_minute for one in found.keys),
        counted=sum(one.counted for one in found.keys),
        duplicates=sum(one.duplicates for one in found.keys),
        refused=sum(_items(one.refused) for one in found.keys),
        otlp=otlp_doors(request),
    )


def _row(one: KeyHealth) -> Row:
    return Row(one, _items(one.refused), _items(one.contradictions), _bars(one.hours))


def _bars(hours: tuple[int, ...]) -> tuple[Bar, ...]:
    most = max(hours, default=0) or 1
    heights = [items / most * _BAR_HEIGHT for items in hours]
    return tuple(
        Bar(5 * place, f"{_BAR_HEIGHT - height:.2f}", f"{height:.2f}")
        for place, height in enumerate(heights)
    )


def _remarks(healths: tuple[KeyHealth, ...]) -> list[Remark]:
    found = [
        Remark(one, what, level, said)
        for one in healths
        for name, what, level in _REMARKS
        for said in getattr(one, name)
    ]
    worst = [what for _, what, _ in _REMARKS]
    return sorted(found, key=lambda remark: (worst.index(remark.what), -remark.said.items))


def _items(said: tuple[Said, ...]) -> int:
    return sum(one.items for one in said)
