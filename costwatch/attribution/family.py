"""Which calls new spans can change.

    affected    the calls to be merged again, with all their observations and the tags around them; and the new
                observations that have to do with nothing else: most calls are seen once
    told        what is kept of calls in the ledger

Traces arrive in pieces and in any order: a wrapper may come hours before or after what it wraps, the span between
them later still. So each new span is looked at in both directions, up to its ancestors and down to its descendants,
over all that is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection

from collectors.observation import Tags, Vantage
from costwatch.attribution import twins
from costwatch.attribution.copying import array, between, micros_of, moment
from costwatch.attribution.identity import (
    CROWD,
    REACH_MICROS,
    Part,
    group_in,
    in_calls,
    reach_micros,
)
from costwatch.attribution.merge import Seen
from costwatch.attribution.repeats import further_calls
from costwatch.attribution.spans import NO_TAGS, READ, Kept, Rows, SpanRow, read

# Searched beyond reach, so that a call's second view does not make it search again.
_MARGIN_MICROS = 600_000_000
# How far above a span its wrapper or its tags may be. Bounds the work that one body can ask for.
DEPTH = 64

# Keys are walked, rows read once at the end: a loop of parents ends, since UNION keeps each key and depth once.
_BELOW = f"""
WITH RECURSIVE below (span_key, depth) AS (
    SELECT key, 0 FROM unnest(%(keys)s::uuid[]) AS key
     UNION
    SELECT s.span_key, depth + 1 FROM attribution_span s JOIN below ON s.parent_key = below.span_key
     WHERE s.organization_id = %(organization_id)s AND s.started_at BETWEEN %(first)s AND %(last)s
       AND depth < %(depth)s
) SELECT {READ} FROM attribution_span AS s
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
) SELECT {READ} FROM attribution_span AS s
   WHERE organization_id = %(organization_id)s AND started_at BETWEEN %(first)s AND %(last)s
     AND span_key IN (SELECT span_key FROM above)
"""
# Of a group that is too crowded to tell calls apart, no more is read than shows that.
_OF_GROUPS = f"""
SELECT found.* FROM unnest(%(groups)s::uuid[], %(firsts)s::timestamptz[], %(lasts)s::timestamptz[])
                    AS wanted (call_id, first, last)
 CROSS JOIN LATERAL (
       SELECT {READ} FROM attribution_span AS s
        WHERE s.organization_id = %(organization_id)s AND s.call_id = wanted.call_id
          AND s.started_at BETWEEN wanted.first AND wanted.last
          AND s.started_at BETWEEN %(first)s AND %(last)s
        LIMIT {CROWD + 1}) AS found
"""
_WRAPS = """
UPDATE attribution_span SET wraps = true
 WHERE organization_id = %(organization_id)s AND span_key = ANY(%(keys)s::uuid[]) AND NOT wraps
   AND started_at BETWEEN %(first)s AND %(last)s
"""

Times = tuple[int, int]  # the first and the last moment


@dataclass(frozen=True, slots=True)
class Told:
    """All that is kept of one call."""

    group: bytes
    joined: Collection[bytes]  # groups that its views were in before
    seen: Sequence[Seen]
    inherited: Sequence[Tags]  # tags of the spans around it, nearest first
    repeats: int = 0  # further calls that seem to carry its id (repeats.py)
    new_repeats: int = 0  # of these, since the spans at hand came

    @property
    def response_id(self) -> str:
        return next(
            (one.observation.response_id for one in self.seen if one.observation.response_id), ""
        )


def affected(kept: Kept) -> tuple[Sequence[int], list[Told]]:
    """The places of new observations that nothing else has to do with, and the calls that other new spans can change."""
    rows = kept.rows
    related = _related(kept)
    watched = twins.watched_twice(rows, kept.fresh)
    related |= watched
    alone = kept.fresh
    if related or rows.single:
        alone = [place for place in alone if place not in related and _is_counted(rows, place)]
    if not related:
        return alone, []
    family = _Family(rows.organization_id, [rows.row(place) for place in related])
    touched = {row.span_key for row in family.rows.values() if row.group is not None}
    family.add_views_of_the_same(touched)
    if served := family.join_served():
        touched |= served
        family.add_views_of_the_same(touched)
    family.mark_wrappers()
    if watched:
        touched |= family.join_twins([rows.row(place) for place in watched])
    fresh = {rows.keys[place] for place in related}
    return alone, family.told(touched, fresh)


def _is_counted(rows: Rows, place: int) -> bool:
    """An observation of a call, and no wrapper."""
    row = rows.single.get(place)
    return row is None or (row.observation is not None and not row.wraps)


def told(organization_id: int, calls: Sequence[tuple[bytes, int]]) -> list[Told | None]:
    """What is kept of calls, by their id and beginning in the ledger, in the same order; None: nothing."""
    family = _Family(organization_id, ())
    begun: dict[bytes, Times] = {}
    for call, micros in calls:
        first, last = begun.get(group_in(call), (micros, micros))
        begun[group_in(call)] = min(first, micros), max(last, micros)
    family.add_groups(begun)
    began = {(row.group, row.begun_micros): row.span_key for row in family.rows.values()}
    keys = [began.get((group_in(call), micros)) for call, micros in calls]
    wanted = {key for key in keys if key is not None}
    family.add_views_of_the_same(wanted)
    found = {seen.span_key: told for told in family.told(wanted) for seen in told.seen}
    return [found.get(key) if key is not None else None for key in keys]


def _related(kept: Kept) -> set[int]:
    """The places of new rows that can change another row's call, or whose own call another row can change."""
    rows, places = kept.rows, {kept.rows.keys[place]: place for place in kept.fresh}
    groups = Counter(rows.groups[place] for place in kept.fresh)
    related: set[int] = set()
    if (
        not (kept.above or kept.below or kept.same)
        and len(groups) == len(kept.fresh)
        and places.keys().isdisjoint(rows.parents)
    ):
        return related
    for key, place in places.items():
        group = rows.groups[place]
        if group is None and key not in kept.below:
            continue
        chain = _chain(rows, places, place)
        if (
            key in kept.below
            or group in kept.same
            or groups[group] > 1
            or rows.parents[chain[-1]] in kept.above
            or any(rows.matters_below(one) for one in chain[1:])
        ):
            related.update(chain)
    return related


def _chain(rows: Rows, places: Mapping[bytes, int], place: int) -> list[int]:
    """The row and its ancestors among these rows."""
    chain = [place]
    while (parent := rows.parents[chain[-1]]) in places and len(chain) <= DEPTH:
        assert parent is not None
        chain.append(places[parent])
    return chain


class _Family:
    """The spans that new ones are related to, as far as they are kept. Those given are among the kept ones."""

    def __init__(self, organization_id: int, fresh: Sequence[SpanRow]) -> None:
        self.organization_id = organization_id
        self.rows: dict[bytes, SpanRow] = {row.span_key: row for row in fresh}
        self._left: dict[bytes, set[bytes]] = defaultdict(set)  # by group: those that joined it
        self.add(self.find(_ABOVE, self._missing_parents()))
        self.add(self.find(_BELOW, {row.span_key for row in fresh} & self._that_matter_below()))

    def find(self, query: str, keys: Collection[bytes]) -> Iterator[SpanRow]:
        if not keys:
            return iter(())
        begun = [row.begun_micros for row in self.rows.values()]
        times = between(min(begun) - REACH_MICROS, max(begun) + REACH_MICROS, "first", "last")
        return self._read(query, {"keys": array(keys), "depth": DEPTH, **times})

    def _read(self, query: str, parameters: Mapping[str, Any]) -> Iterator[SpanRow]:
        with connection.cursor() as cursor:
            cursor.execute(query, {"organization_id": self.organization_id, **parameters})
            return read(cursor.fetchall())

    def add(self, rows: Iterable[SpanRow]) -> None:
        for row in rows:
            self.rows.setdefault(row.span_key, row)

    def add_views_of_the_same(self, keys: Collection[bytes]) -> None:
        """Every other observation of the calls that these spans speak of, and what is around them."""
        searched: dict[bytes, Times] = {}
        while wanted := self._not_within(searched, keys):
            searched |= self.add_groups(wanted)
        self.add(self.find(_ABOVE, self._missing_parents()))

    def _not_within(
        self, searched: Mapping[bytes, Times], keys: Collection[bytes]
    ) -> dict[bytes, Times]:
        """By group, from when to when its calls are known to begin, where more may begin near that."""
        wanted: dict[bytes, Times] = {}
        for group, call in self._calls(keys):
            first, last = call[0].begun_micros, call[-1].begun_micros
            from_, to = searched.get(group, (last, first))
            if first - reach_micros(group) < from_ or last + reach_micros(group) > to:
                before = wanted.get(group, (first, last))
                wanted[group] = min(first, before[0]), max(last, before[1])
        return wanted

    def add_groups(self, begun: Mapping[bytes, Times]) -> dict[bytes, Times]:
        """Add what each group holds around these times; returns the times that were searched."""
        around = {group: reach_micros(group) + _MARGIN_MICROS for group in begun}
        searched = {
            group: (first - around[group], last + around[group])
            for group, (first, last) in begun.items()
        }
        if searched:
            firsts, lasts = zip(*searched.values(), strict=True)
            groups = "{" + ",".join(group.hex() for group in searched) + "}"
            parameters = {
                "groups": groups,
                "firsts": [moment(micros) for micros in firsts],
                "lasts": [moment(micros) for micros in lasts],
                **between(min(firsts), max(lasts), "first", "last"),
            }
            self.add(self._read(_OF_GROUPS, parameters))
        return searched

    def _calls(self, keys: Collection[bytes]) -> list[tuple[bytes, list[SpanRow]]]:
        """The calls that these spans speak of, each with its group and its observations in order of beginning."""
        groups: dict[bytes, list[SpanRow]] = defaultdict(list)
        for row in self.rows.values():
            if row.group is not None:
                groups[row.group].append(row)
        touched = {group for key in keys if (group := self.rows[key].group) is not None}
        return [
            (group, call)
            for group in touched
            for call in _in_calls(group, groups[group])
            if any(row.span_key in keys for row in call)
        ]

    def _missing_parents(self) -> set[bytes]:
        parents = {row.parent_key for row in self.rows.values() if row.parent_key}
        return parents - self.rows.keys()

    def _that_matter_below(self) -> set[bytes]:
        """What matters to calls below, and what lies below that: other links connect nothing that counts."""
        children: dict[bytes, list[bytes]] = defaultdict(list)
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
        begun = [self.rows[key].begun_micros for key in found]
        parameters: dict[str, Any] = {
            "organization_id": self.organization_id,
            "keys": array(found),
            **between(min(begun), max(begun), "first", "last"),
        }
        with connection.cursor() as cursor:
            cursor.execute(_WRAPS, parameters)
        for key in found:
            self.rows[key] = replace(self.rows[key], wraps=True)

    def _wrappers(self) -> Iterator[bytes]:
        for row in self.rows.values():
            seen = row.observation
            if seen is None or seen.is_wrapper:
                continue
            around = [a for a in self.above(row) if a.observation and not a.observation.is_wrapper]
            if row.bare and any(not self._loops(outer, row) for outer in around):
                yield row.span_key
                continue
            for outer in around:
                if outer.group != row.group and not outer.wraps and not self._loops(outer, row):
                    yield outer.span_key

    def _loops(self, outer: SpanRow, row: SpanRow) -> bool:
        """Each is above the other, which is forged or a bug: then neither wraps, and both are counted."""
        return any(above.span_key == row.span_key for above in self.above(outer))

    def join_twins(self, watched: Sequence[SpanRow]) -> set[bytes]:
        """Let views that nothing ties to their call join it (twins.py); returns the keys of all that is changed."""
        near = twins.near(self.organization_id, watched)
        begun = {group_in(call): (micros_of(at), micros_of(at)) for call, at in near}
        self.add_groups(begun)
        self.add(self.find(_ABOVE, self._missing_parents()))
        changed: set[bytes] = set()
        for view, other in twins.pairs(self.rows):
            assert view.group is not None
            assert other.group is not None
            old, new = view.group, other.group
            self._left[new].add(old)
            for row in [row for row in self.rows.values() if row.group == old]:
                twins.adopt(self.organization_id, row, new)
                self.rows[row.span_key] = replace(row, group=new)
            changed |= {row.span_key for row in self.rows.values() if row.group == new}
        return changed

    def join_served(self) -> set[bytes]:
        """Let a runtime's view that knows neither an id nor what was read (TGI's) join the call around it, which does;
        returns the keys of those that did."""
        joined: set[bytes] = set()
        for row in list(self.rows.values()):
            outer = self._asked_by(row)
            if outer is None:
                continue
            assert row.group is not None
            assert outer.group is not None
            self._left[outer.group].add(row.group)
            twins.adopt(self.organization_id, row, outer.group)
            self.rows[row.span_key] = replace(row, group=outer.group)
            joined.add(row.span_key)
        return joined

    def _asked_by(self, row: SpanRow) -> SpanRow | None:
        seen = row.observation
        if seen is None or seen.vantage is not Vantage.SERVER or row.group is None or row.wraps:
            return None
        if seen.response_id or seen.usage.input_tokens is not None or seen.decode_ns is None:
            return None
        calls = (a for a in self.above(row) if a.observation and not a.observation.is_wrapper)
        outer = next(calls, None)
        if outer is None or outer.group in (None, row.group) or self._loops(outer, row):
            return None
        return outer

    def told(self, keys: Collection[bytes], fresh: Collection[bytes] = ()) -> list[Told]:
        """The calls that these spans speak of. fresh: those that came just now."""
        return [
            Told(
                group,
                self._left.get(group, ()),
                _seen(call),
                self._tags_around(call),
                *self._repeats(call, fresh),
            )
            for group, call in self._calls(keys)
        ]

    def _repeats(self, call: Sequence[SpanRow], fresh: Collection[bytes]) -> tuple[int, int]:
        """How many further calls seem to carry a call's id, and how many of them did not before the fresh ones came."""
        parts = [
            Part(row.span_key, row.observation)
            for row in call
            if row.observation is not None and row.observation.response_id and not row.wraps
        ]
        if len(parts) < 2:
            return 0, 0
        found = further_calls(parts, self._are_related)
        before = [part for part in parts if part.span_key not in fresh]
        return found, max(0, found - further_calls(before, self._are_related)) if found else 0

    def _are_related(self, one: Part, other: Part) -> bool:
        """Whether one of two spans is around the other."""
        if one.observation.trace_id != other.observation.trace_id:
            return False
        return self._is_above(one, other) or self._is_above(other, one)

    def _is_above(self, outer: Part, inner: Part) -> bool:
        return any(row.span_key == outer.span_key for row in self.above(self.rows[inner.span_key]))

    def _tags_around(self, rows: Sequence[SpanRow]) -> list[Tags]:
        """Tags of the spans around a call's counted observations, nearest first."""
        tags: list[Tags] = []
        for row in rows:
            if not row.wraps:
                tags += [above.tags for above in self.above(row)]
        return [one for one in tags if one != NO_TAGS]


def _in_calls(group: bytes, rows: Sequence[SpanRow]) -> list[list[SpanRow]]:
    if len(rows) == 1:
        return [list(rows)]
    by_key = {row.span_key: row for row in rows}
    parts = [Part(row.span_key, row.observation) for row in rows if row.observation]
    return [[by_key[part.span_key] for part in call] for call in in_calls(group, parts)]


def _seen(rows: Iterable[SpanRow]) -> list[Seen]:
    return [
        Seen(row.observation, row.key_id, row.span_key, row.wraps)
        for row in rows
        if row.observation is not None and row.key_id is not None
    ]
