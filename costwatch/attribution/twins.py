"""Two views of one call that nothing in them ties together: different traces, and a view without a response id.

A framework's span of a streamed answer beside its client's; a failed call, or an embedding, that two libraries saw.
Where a service is watched by several instrumentations, a view without an id joins the call that

    the same service made, seen by another instrumentation,
    of the same model, with the very same token counts (or both failed, and counted nothing),
    while one of the two spans lay within the other.

It then carries that call's group, and is merged like any other view. Services with one instrumentation pay nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connection

from collectors.observation import Observation, Provenance
from costwatch.attribution import profiles
from costwatch.attribution.copying import between
from costwatch.attribution.dimensions import OTHER
from costwatch.attribution.spans import Rows, SpanRow

# How long before the inner span the outer one may begin, and how far the ends may disagree.
_LEAD_MICROS = 2_000_000
_SLACK_NS = 1_000_000

_NEAR = """
SELECT entry.call_id, entry.started_at
  FROM attribution_entry AS entry
  JOIN attribution_source AS source ON source.id = entry.source_id
 WHERE entry.organization_id = %(organization_id)s AND entry.started_at BETWEEN %(first)s AND %(last)s
   AND entry.sign = 1 AND source.organization_id = %(organization_id)s
   AND source.service_name = ANY(%(services)s)
   AND (entry.failed OR entry.output_tokens IS NULL OR entry.output_tokens = ANY(%(outputs)s))
"""
_ADOPT = """
UPDATE attribution_span SET call_id = %(group)s::uuid
 WHERE organization_id = %(organization_id)s AND span_key = %(key)s::uuid
   AND started_at BETWEEN %(first)s AND %(last)s
"""


class Likeness(NamedTuple):
    """What two views of one call have in common."""

    service_name: str
    environment: str
    request_model: str
    tokens: tuple[int | None, ...]


def watched_twice(rows: Rows, fresh: Collection[int]) -> set[int]:
    """The places of the views among new rows that may have a twin somewhere."""
    several = profiles.watched_by_several(rows.organization_id)
    if not several:
        return set()
    views = {
        place: rows.row(place)
        for place in fresh
        if (known := rows.known[place]) is not None and known.service in several
    }
    return {
        place
        for place, row in views.items()
        if row.observation is not None and not row.wraps and likeness(row.observation) is not None
    }


def near(organization_id: int, rows: Sequence[SpanRow]) -> list[tuple[bytes, Any]]:
    """Calls in the ledger, by id and beginning, that may be seen by these rows."""
    seen = [row.observation for row in rows if row.observation is not None]
    first = min(row.begun_micros for row in rows) - _LEAD_MICROS
    last = max(one.end_unix_ns for one in seen) // 1000
    parameters: dict[str, Any] = {
        "organization_id": organization_id,
        "services": sorted({OTHER, *(one.service_name for one in seen)}),
        "outputs": sorted({one.usage.output_tokens or 0 for one in seen}),
        **between(first, last, "first", "last"),
    }
    with connection.cursor() as cursor:
        cursor.execute(_NEAR, parameters)
        return [(call.bytes, started_at) for call, started_at in cursor.fetchall()]


def likeness(seen: Observation) -> Likeness | None:
    """None for a view that says too little to be recognised."""
    usage = seen.usage
    if seen.provenance is Provenance.REPORTED:
        cached = (usage.cache_read_input_tokens or 0) + (usage.cache_write_input_tokens or 0)
        tokens: tuple[int | None, ...] = ((usage.input_tokens or 0) + cached, usage.output_tokens)
    elif seen.provenance is Provenance.ABSENT and seen.error_type:
        tokens = ()
    else:
        return None
    return Likeness(seen.service_name, seen.environment, seen.request_model, tokens)


def pairs(rows: Mapping[bytes, SpanRow]) -> list[tuple[SpanRow, SpanRow]]:
    """Views without an id, each with the view whose call it is of. Each call is joined once by a kind of view."""
    alike: dict[Likeness, list[SpanRow]] = defaultdict(list)
    kinds: dict[bytes, set[tuple[str, str]]] = defaultdict(set)
    for row in sorted(rows.values(), key=lambda row: (row.begun_micros, row.span_key)):
        if row.observation is not None and row.group is not None and not row.wraps:
            kinds[row.group].add(_kind(row.observation))
            like = likeness(row.observation)
            if like is not None:
                alike[like].append(row)
    found: list[tuple[SpanRow, SpanRow]] = []
    joined: set[bytes] = set()
    for views in alike.values():
        for view in views:
            if view.observation is None or view.observation.response_id or view.group in joined:
                continue
            other = _closest(view, views, kinds)
            if other is not None and other.group is not None and view.group is not None:
                found.append((view, other))
                kinds[other.group] |= kinds[view.group]
                joined |= {view.group, other.group}
    return found


def _closest(
    view: SpanRow, views: Sequence[SpanRow], kinds: Mapping[bytes, set[tuple[str, str]]]
) -> SpanRow | None:
    fitting = [
        other
        for other in views
        if other.group is not None
        and view.group is not None
        and other.group != view.group
        and kinds[other.group].isdisjoint(kinds[view.group])
        and _one_lies_within_the_other(view, other)
    ]
    return min(fitting, key=lambda other: abs(other.begun_micros - view.begun_micros), default=None)


def _kind(seen: Observation) -> tuple[str, str]:
    return seen.dialect, seen.vantage.value


def _one_lies_within_the_other(one: SpanRow, other: SpanRow) -> bool:
    a, b = one.observation, other.observation
    if a is None or b is None or abs(one.begun_micros - other.begun_micros) > _LEAD_MICROS:
        return False
    outer, inner = (a, b) if a.start_unix_ns <= b.start_unix_ns else (b, a)
    return inner.end_unix_ns <= outer.end_unix_ns + _SLACK_NS


def adopt(organization_id: int, view: SpanRow, group: bytes) -> None:
    """From now on the view is one of this group's."""
    parameters: dict[str, Any] = {
        "organization_id": organization_id,
        "group": group.hex(),
        "key": view.span_key.hex(),
        **between(view.begun_micros, view.begun_micros, "first", "last"),
    }
    with connection.cursor() as cursor:
        cursor.execute(_ADOPT, parameters)
