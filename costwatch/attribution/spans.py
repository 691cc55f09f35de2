"""What was seen, and which calls that can change.

    keep        the spans that are new, written with COPY
    affected    the calls to be merged again, with all their observations and the tags around them

Traces arrive in pieces and in any order: a wrapper may come hours before or after what it wraps, the span between
them later still. So each new span is looked at in both directions, up to its ancestors and down to its descendants,
over all that is kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from collectors.observation import Observation, Provenance, Tags
from costwatch.attribution.facts import NO_TAGS, from_facts, link_facts, tags_from, to_facts
from costwatch.attribution.identity import CROWD, REACH, Part, group_in, in_calls, reach
from costwatch.attribution.merge import Seen

# Searched beyond reach, so that a call's second view does not make it search again.
_MARGIN = timedelta(minutes=10)
# How far above a span its wrapper or its tags may be. Bounds the work that one body can ask for.
DEPTH = 64

_COLUMNS = (
    "organization_id",
    "started_at",
    "span_key",
    "parent_key",
    "call_id",
    "key_id",
    "wraps",
    "trace_id",
    "span_id",
    "facts",
)
_READ = "span_key, parent_key, started_at, call_id, key_id, wraps, trace_id, span_id, facts"

# Keys are walked, rows read once at the end: a loop of parents ends, since UNION keeps each key and depth once.
_BELOW = f"""
WITH RECURSIVE below (span_key, depth) AS (
    SELECT key, 0 FROM unnest(%(keys)s::uuid[]) AS key
     UNION
    SELECT s.span_key, depth + 1 FROM attribution_span s JOIN below ON s.parent_key = below.span_key
     WHERE s.organization_id = %(organization_id)s AND s.started_at BETWEEN %(first)s AND %(last)s
       AND depth < %(depth)s
) SELECT {_READ} FROM attribution_span
   WHERE organization_id = %(organization_id)s AND started_at BETWEEN %(first)s AND %(last)s
     AND span_key IN (SELECT span_key FROM below WHERE depth > 0)
"""
_ABOVE = f"""
WITH RECURSIVE above (span_key, depth) AS (
    SELECT key, 0 FROM unnest(%(keys)s::uuid[]) AS key
     UNION
    SELECT s.parent_key, depth + 1 FROM attribution_span s JOIN above USING (span_key)
     WHERE s.organization_id = %(organization_id)s AND s.started_at BETWEEN %(first)s AND %(last)s
       AND s.parent_key IS NOT NULL AND depth < %(depth)s
) SELECT {_READ} FROM attribution_span
   WHERE organization_id = %(organization_id)s AND started_at BETWEEN %(first)s AND %(last)s
     AND span_key IN (SELECT span_key FROM above)
"""
# Of a group that is too crowded to tell calls apart, no more is read than shows that.
_OF_GROUPS = f"""
SELECT found.* FROM unnest(%(groups)s::uuid[], %(firsts)s::timestamptz[], %(lasts)s::timestamptz[])
                    AS wanted (call_id, first, last)
 CROSS JOIN LATERAL (
       SELECT {_READ} FROM attribution_span AS s
        WHERE s.organization_id = %(organization_id)s AND s.call_id = wanted.call_id
          AND s.started_at BETWEEN wanted.first AND wanted.last
          AND s.started_at BETWEEN %(first)s AND %(last)s
        LIMIT {CROWD + 1}) AS found
"""
_SEEN = """
SELECT span_key FROM attribution_span
 WHERE organization_id = %(organization_id)s AND span_key = ANY(%(keys)s)
   AND started_at BETWEEN %(first)s AND %(last)s
"""
_WRAPS = """
UPDATE attribution_span SET wraps = true
 WHERE organization_id = %(organization_id)s AND span_key = ANY(%(keys)s) AND NOT wraps
   AND started_at BETWEEN %(first)s AND %(last)s
"""


@dataclass(frozen=True, slots=True)
class SpanRow:
    """A row of Span. Without an observation it is only a link to its parent."""

    span_key: UUID
    parent_key: UUID | None
    started_at: datetime
    call_id: UUID | None = None
    key_id: int | None = None
    wraps: bool = False
    observation: Observation | None = None
    tags: Tags = NO_TAGS

    @property
    def matters_below(self) -> bool:
        """Whether it can change calls below it: it may wrap them, or hand its tags down."""
        return self.call_id is not None or self.tags != NO_TAGS

    @property
    def bare(self) -> bool:
        """It says nothing that could be counted: a failed attempt, or a shell around its parent's call."""
        seen = self.observation
        return (
            seen is not None
            and not seen.response_id
            and seen.provenance is Provenance.ABSENT
            and seen.device_ns is None
        )


@dataclass(frozen=True, slots=True)
class Told:
    """All that is kept of one call."""

    group: UUID
    seen: Sequence[Seen]
    inherited: Sequence[Tags]  # tags of the spans around it, nearest first


def keep(organization_id: int, rows: Sequence[SpanRow]) -> list[SpanRow]:
    """Write the spans that were not kept before, and return them."""
    if not rows:
        return []
    first, last = _reach(rows, timedelta(0))
    with connection.cursor() as cursor:
        cursor.execute(_SEEN, _search(organization_id, {row.span_key for row in rows}, first, last))
        seen = {key for (key,) in cursor.fetchall()}
        fresh = [row for row in rows if row.span_key not in seen]
        with cursor.copy(f"COPY attribution_span ({', '.join(_COLUMNS)}) FROM STDIN") as copy:
            for row in fresh:
                copy.write_row(_columns(organization_id, row))
    return fresh


def affected(organization_id: int, fresh: Sequence[SpanRow]) -> list[Told]:
    """The calls that new spans can change: told of by them, below them, or around them."""
    if not fresh:
        return []
    family = _Family(organization_id, fresh)
    touched = {row.span_key for row in family.rows.values() if row.call_id is not None}
    family.add_views_of_the_same(touched)
    family.mark_wrappers()
    return family.told(touched)


def told(organization_id: int, calls: Sequence[tuple[UUID, datetime]]) -> list[Told | None]:
    """What is kept of calls, by their id and beginning in the ledger, in the same order; None: nothing."""
    family = _Family(organization_id, ())
    begun: dict[UUID, tuple[datetime, datetime]] = {}
    for call, at in calls:
        first, last = begun.get(group_in(call), (at, at))
        begun[group_in(call)] = min(first, at), max(last, at)
    family.add_groups(begun)
    began = {(row.call_id, row.started_at): row.span_key for row in family.rows.values()}
    keys = [began.get((group_in(call), at)) for call, at in calls]
    wanted = {key for key in keys if key is not None}
    family.add_views_of_the_same(wanted)
    found = {seen.span_key: told for told in family.told(wanted) for seen in told.seen}
    return [found.get(key) if key is not None else None for key in keys]


class _Family:
    """The spans that new ones are related to, as far as they are kept. Those given are among the kept ones."""

    def __init__(self, organization_id: int, fresh: Sequence[SpanRow]) -> None:
        self.organization_id = organization_id
        self.rows: dict[UUID, SpanRow] = {row.span_key: row for row in fresh}
        self.add(self.find(_ABOVE, self._missing_parents()))
        self.add(self.find(_BELOW, {row.span_key for row in fresh} & self._that_matter_below()))

    def find(self, query: str, keys: Collection[UUID]) -> Iterator[SpanRow]:
        if not keys:
            return
        first, last = _reach(self.rows.values(), REACH)
        search = _search(self.organization_id, keys, first, last)
        with connection.cursor() as cursor:
            cursor.execute(query, {**search, "depth": DEPTH})
            for row in cursor.fetchall():
                yield _row(row)

    def add_views_of_the_same(self, keys: Collection[UUID]) -> None:
        """Every other observation of the calls that these spans speak of, and what is around them."""
        searched: dict[UUID, tuple[datetime, datetime]] = {}
        while wanted := self._not_within(searched, keys):
            searched |= self.add_groups(wanted)
        self.add(self.find(_ABOVE, self._missing_parents()))

    def _not_within(
        self, searched: dict[UUID, tuple[datetime, datetime]], keys: Collection[UUID]
    ) -> dict[UUID, tuple[datetime, datetime]]:
        """By group, from when to when its calls are known to begin, where more may begin near that."""
        wanted: dict[UUID, tuple[datetime, datetime]] = {}
        for group, call in self._calls(keys):
            if not any(row.observation and row.observation.response_id for row in call):
                continue
            first, last = call[0].started_at, call[-1].started_at
            from_, to = searched.get(group, (last, first))
            if first - reach(group) < from_ or last + reach(group) > to:
                before = wanted.get(group, (first, last))
                wanted[group] = min(first, before[0]), max(last, before[1])
        return wanted

    def add_groups(
        self, begun: dict[UUID, tuple[datetime, datetime]]
    ) -> dict[UUID, tuple[datetime, datetime]]:
        """Add what each group holds around these times; returns the times that were searched."""
        ranges = {
            group: (first - reach(group) - _MARGIN, last + reach(group) + _MARGIN)
            for group, (first, last) in begun.items()
        }
        if not ranges:
            return {}
        firsts, lasts = zip(*ranges.values(), strict=True)
        search = _search(self.organization_id, (), min(firsts), max(lasts))
        groups = {"groups": list(ranges), "firsts": list(firsts), "lasts": list(lasts)}
        with connection.cursor() as cursor:
            cursor.execute(_OF_GROUPS, {**search, **groups})
            self.add(_row(row) for row in cursor.fetchall())
        return ranges

    def _calls(self, keys: Collection[UUID]) -> list[tuple[UUID, list[SpanRow]]]:
        """The calls that these spans speak of, each with its group and its observations in order of beginning."""
        groups: dict[UUID, list[SpanRow]] = defaultdict(list)
        for row in self.rows.values():
            if row.call_id is not None:
                groups[row.call_id].append(row)
        touched = {row.call_id for key in keys if (row := self.rows[key]).call_id is not None}
        return [
            (group, call)
            for group in touched
            if group is not None
            for call in _in_calls(group, groups[group])
            if any(row.span_key in keys for row in call)
        ]

    def add(self, rows: Iterable[SpanRow]) -> None:
        for row in rows:
            self.rows.setdefault(row.span_key, row)

    def _missing_parents(self) -> set[UUID]:
        parents = {row.parent_key for row in self.rows.values() if row.parent_key}
        return parents - self.rows.keys()

    def _that_matter_below(self) -> set[UUID]:
        """What matters to calls below, and what lies below that: other links connect nothing that counts."""
        children: dict[UUID, list[UUID]] = defaultdict(list)
        for key, row in self.rows.items():
            if row.parent_key is not None:
                children[row.parent_key].append(key)
        waiting = [key for key, row in self.rows.items() if row.matters_below]
        found = set(waiting)
        while waiting:
            for child in children[waiting.pop()]:
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def above(self, row: SpanRow) -> Iterator[SpanRow]:
        """Its ancestors, nearest first, as far as they are kept, DEPTH at most. A loop of parents ends."""
        passed = {row.span_key}
        parent = row.parent_key
        while parent is not None and parent not in passed and parent in self.rows:
            if len(passed) > DEPTH:
                return
            passed.add(parent)
            yield self.rows[parent]
            parent = self.rows[parent].parent_key

    def mark_wrappers(self) -> None:
        """An observation around another call's is not counted. Once true it stays: spans are only ever added."""
        found = set(self._wrappers())
        if not found:
            return
        with connection.cursor() as cursor:
            first, last = _reach([self.rows[key] for key in found], timedelta(0))
            cursor.execute(_WRAPS, _search(self.organization_id, found, first, last))
        for key in found:
            self.rows[key] = replace(self.rows[key], wraps=True)

    def _wrappers(self) -> Iterator[UUID]:
        for row in self.rows.values():
            seen = row.observation
            if seen is None or seen.is_wrapper:
                continue
            around = [a for a in self.above(row) if a.observation and not a.observation.is_wrapper]
            if row.bare and any(not self._loops(outer, row) for outer in around):
                yield row.span_key
                continue
            for outer in around:
                if outer.call_id != row.call_id and not outer.wraps and not self._loops(outer, row):
                    yield outer.span_key

    def _loops(self, outer: SpanRow, row: SpanRow) -> bool:
        """Each is above the other, which is forged or a bug: then neither wraps, and both are counted."""
        return any(above.span_key == row.span_key for above in self.above(outer))

    def told(self, keys: Collection[UUID]) -> list[Told]:
        """The calls that these spans speak of."""
        return [
            Told(group, _seen(call), self._tags_around(call)) for group, call in self._calls(keys)
        ]

    def _tags_around(self, rows: Sequence[SpanRow]) -> list[Tags]:
        """Tags of the spans around a call's counted observations, nearest first."""
        tags: list[Tags] = []
        for row in rows:
            if not row.wraps:
                tags += [above.tags for above in self.above(row)]
        return [one for one in tags if one != NO_TAGS]


def _seen(rows: Iterable[SpanRow]) -> list[Seen]:
    return [
        Seen(row.observation, row.key_id, row.span_key, row.wraps)
        for row in rows
        if row.observation is not None and row.key_id is not None
    ]


def _in_calls(group: UUID, rows: Sequence[SpanRow]) -> list[list[SpanRow]]:
    if len(rows) == 1:
        return [list(rows)]
    by_key = {row.span_key: row for row in rows}
    parts = [Part(row.span_key, row.observation, row.started_at) for row in rows if row.observation]
    return [[by_key[part.key] for part in call] for call in in_calls(group, parts)]


def _reach(rows: Iterable[SpanRow], around: timedelta) -> tuple[datetime, datetime]:
    starts = [row.started_at for row in rows]
    return min(starts) - around, max(starts) + around


def _search(
    organization_id: int, keys: Iterable[UUID], first: datetime, last: datetime
) -> dict[str, Any]:
    return {"organization_id": organization_id, "keys": list(keys), "first": first, "last": last}


def _columns(organization_id: int, row: SpanRow) -> tuple[object, ...]:
    seen = row.observation
    return (
        organization_id,
        row.started_at,
        row.span_key,
        row.parent_key,
        row.call_id,
        row.key_id,
        row.wraps,
        seen.trace_id if seen else None,
        seen.span_id if seen else None,
        to_facts(seen) if seen else link_facts(row.tags),
    )


def _row(columns: Sequence[Any]) -> SpanRow:
    span_key, parent_key, started_at, call_id, key_id, wraps, trace_id, span_id, facts = columns
    # Django leaves jsonb as text to cursors of our own.
    said = json.loads(facts) if facts is not None else {}
    seen = from_facts(said, trace_id, span_id) if call_id is not None else None
    return SpanRow(span_key, parent_key, started_at, call_id, key_id, wraps, seen, tags_from(said))
