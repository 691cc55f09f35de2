"""Rows of Span: what was seen.

    rows        a decoded body, one row per distinct span; of calls that look alike in columns (alike.py)
    keep        writes those that are new, and says which of them have relations beyond the body
    read        rows for a query of family.py

Ids are 16 bytes and moments microseconds here; as text they go to Postgres (copying.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.db import connection

from collectors.dialects.sheets import without_sheets
from collectors.observation import Decoded, Observation, Provenance, SpanLink, Tags
from costwatch.accounts.models import IngestKey
from costwatch.attribution import profiles
from costwatch.attribution.alike import Alike, span_lines, written
from costwatch.attribution.copying import (
    array,
    as_json,
    between,
    copy_in,
    datetime_of,
    line,
    micros_of,
    moment,
    text,
)
from costwatch.attribution.identity import REACH_MICROS, group_of, span_key, start_micros
from costwatch.attribution.profiles import NUMBERS, Known, numbers_of, said_tags

NO_TAGS = Tags()
_DAY_MICROS = 86_400_000_000
_OWN = ("trace_id", "span_id", "start_rest_ns", "duration_ns")
_TEXTS = ("response_id", "end_user", "session", "request_hash", "prefix_hashes")
_COLUMNS = (
    "organization_id",
    "started_at",
    "span_key",
    "parent_key",
    "call_id",
    "wraps",
    "profile_id",
    *_OWN,
    *NUMBERS,
    *_TEXTS,
    "tags",
)
READ = ", ".join(
    f"s.{name}" for name in ("span_key", "parent_key", "call_id", "wraps", "started_at", "profile_id", *_OWN, *NUMBERS, *_TEXTS, "tags")
)  # fmt: skip

_LINK_REST = ["\\N"] * (len(_OWN) + len(NUMBERS) + len(_TEXTS))
_LINK_REST[_OWN.index("start_rest_ns")] = "0"

# What is kept already and has to do with rows of the body: only keys, nearly always none. Looked up key by key: a
# planner without statistics of a new day would rather read all of it.
_KEPT = """
SELECT '{how}', wanted.key FROM unnest(%({keys})s::uuid[]) AS wanted (key)
 CROSS JOIN LATERAL (
       SELECT FROM attribution_span
        WHERE {column} = wanted.key AND organization_id = %(organization_id)s AND started_at BETWEEN {times}
        LIMIT 1) AS kept
"""
_AT_ONCE, _AROUND = "%(first)s AND %(last)s", "%(from)s AND %(to)s"
_SEEN = _KEPT.format(how="seen", column="span_key", keys="keys", times=_AT_ONCE)
_RELATED = " UNION ALL ".join(
    (
        _KEPT.format(how="seen", column="span_key", keys="without_id", times=_AT_ONCE),
        _KEPT.format(how="above", column="span_key", keys="parents", times=_AROUND),
        _KEPT.format(how="below", column="parent_key", keys="keys", times=_AROUND),
        _KEPT.format(how="same", column="call_id", keys="groups", times=_AROUND),
    )
)


@dataclass(slots=True)
class SpanRow:
    """A row of Span. Without an observation it is only a link to its parent."""

    span_key: bytes
    parent_key: bytes | None
    begun_micros: int
    group: bytes | None = None
    wraps: bool = False
    observation: Observation | None = None
    known: Known | None = None  # of a new observation
    key_id: int | None = None
    tags: Tags = NO_TAGS

    @property
    def matters_below(self) -> bool:
        """Whether it can change calls below it: it may wrap them, or hand its tags down."""
        return self.observation is not None or self.tags != NO_TAGS

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


class Rows:
    """A body's rows, one per distinct span, column by column: most are never looked at by themselves."""

    def __init__(self, organization_id: int) -> None:
        self.organization_id = organization_id
        self.keys: list[bytes] = []
        self.parents: list[bytes | None] = []
        self.groups: list[bytes | None] = []  # None: only a link
        self.begun_micros: list[int] = []
        self.ended_unix_ns: list[int | None] = []  # of observations
        self.known: list[Known | None] = []
        self.lines: list[str] = []  # for COPY
        self.alike: dict[int, Alike] = {}  # by the place of their first row
        self.single: dict[int, SpanRow] = {}  # by place
        self._groups_of_ids: set[bytes] = set()
        self._without_id: set[bytes] = set()

    def __len__(self) -> int:
        return len(self.keys)

    def add_alike(self, alike: Alike) -> None:
        self.alike[len(self)] = alike
        self.keys += alike.keys
        self.parents += alike.parents
        self.groups += alike.groups
        self.begun_micros += alike.begun_micros
        self.ended_unix_ns += [row.end_unix_ns for row in alike.sheet.rows]
        self.known += alike.known
        self.lines += span_lines(self.organization_id, alike)
        if "response_id" in alike.sheet.columns:
            self._groups_of_ids.update(alike.groups)
        else:
            self._without_id.update(alike.keys)

    def add(self, row: SpanRow) -> None:
        self.single[len(self)] = row
        self.keys.append(row.span_key)
        self.parents.append(row.parent_key)
        self.groups.append(row.group)
        self.begun_micros.append(row.begun_micros)
        self.ended_unix_ns.append(row.observation.end_unix_ns if row.observation else None)
        self.known.append(row.known)
        self.lines.append(_line(self.organization_id, row))
        if row.group is not None and row.observation is not None and row.observation.response_id:
            self._groups_of_ids.add(row.group)
        else:
            self._without_id.add(row.span_key)

    def row(self, place: int) -> SpanRow:
        """A row by itself."""
        row = self.single.get(place)
        if row is not None:
            return row
        first = max(first for first in self.alike if first <= place)
        return _row_of(self.alike[first], place - first)

    def matters_below(self, place: int) -> bool:
        row = self.single.get(place)
        return row is None or row.matters_below

    def first_end_unix_ns(self, places: Iterable[int]) -> int | None:
        """When the first of these observations ended; None where there is none."""
        ends = [self.ended_unix_ns[place] for place in places]
        return min([end for end in ends if end is not None], default=None)

    def days(self) -> set[date]:
        days = {micros // _DAY_MICROS for micros in self.begun_micros}
        return {datetime_of(day * _DAY_MICROS).date() for day in days}

    def wanted(self) -> dict[str, str]:
        """What to look for among the kept rows."""
        parents = {parent for parent in self.parents if parent is not None}
        return {
            "keys": array(self.keys),
            "without_id": array(self._without_id),
            "parents": array(parents.difference(self.keys)),
            "groups": array(self._groups_of_ids),
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows that were not kept before, and the keys and groups that kept rows have in common with them."""

    rows: Rows
    fresh: Sequence[int]  # places
    above: Collection[bytes]  # kept rows, the parents of fresh ones among them
    below: Collection[bytes]  # fresh rows that are parents of kept ones
    same: Collection[bytes]  # groups


def rows(key: IngestKey, decoded: Decoded) -> Rows:
    """One row per distinct span; a span that is an observation is not also a link."""
    found = Rows(key.organization_id)
    for sheet in decoded.sheets:
        found.add_alike(written(key, sheet))
    seen = set(found.keys)
    if len(seen) < len(found):
        return rows(key, without_sheets(decoded))  # a span twice: they are compared one by one
    for row in (
        *(_observation_row(key, observation) for observation in decoded.observations),
        *map(_link_row, decoded.links),
    ):
        if row.span_key not in seen:
            seen.add(row.span_key)
            found.add(row)
    return found


def _observation_row(key: IngestKey, observation: Observation) -> SpanRow:
    observation = profiles.in_environment(key, observation)
    own = span_key(observation.trace_id, observation.span_id)
    parent = observation.parent_span_id
    return SpanRow(
        own,
        span_key(observation.trace_id, parent) if parent else None,
        start_micros(observation),
        group_of(observation, own),
        observation.is_wrapper,
        observation,
        profiles.known(key, observation),
        key.pk,
        observation.tags,
    )


def _link_row(link: SpanLink) -> SpanRow:
    parent = link.parent_span_id
    above = span_key(link.trace_id, parent) if parent else None
    own = span_key(link.trace_id, link.span_id)
    return SpanRow(own, above, link.start_unix_ns // 1000, tags=link.tags)


def _row_of(alike: Alike, place: int) -> SpanRow:
    seen, known = alike.sheet.rows[place].observation(), alike.known[place]
    seen.environment = known.service[1]
    return SpanRow(
        alike.keys[place],
        alike.parents[place],
        alike.begun_micros[place],
        alike.groups[place],
        False,
        seen,
        known,
        alike.key_id,
        seen.tags,
    )


def keep(found: Rows, wanted: Mapping[str, str], text: str) -> Kept:
    """Write the rows that were not kept before.

    wanted, text   of all rows, made before anybody has to wait for it.
    """
    if not len(found):
        return Kept(found, (), (), (), ())
    times = _times(found.begun_micros)
    related = _find(_RELATED, found.organization_id, times, wanted)
    if related["same"]:
        # Of those with a response id only here: a span that was kept has left its id.
        again = [
            key
            for key, group in zip(found.keys, found.groups, strict=True)
            if group in related["same"]
        ]
        again_seen = _find(_SEEN, found.organization_id, times, {"keys": array(again)})["seen"]
        related["seen"] |= again_seen
    fresh: Sequence[int] = range(len(found))
    if related["seen"]:
        fresh = [place for place in fresh if found.keys[place] not in related["seen"]]
        text = "".join(found.lines[place] for place in fresh)
    copy_in(f"COPY attribution_span ({', '.join(_COLUMNS)}) FROM STDIN", text)
    above = related["above"] | related["seen"]
    return Kept(found, fresh, above, related["below"], related["same"])


def _find(
    query: str, organization_id: int, times: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, set[bytes]]:
    related: dict[str, set[bytes]] = {"seen": set(), "above": set(), "below": set(), "same": set()}
    with connection.cursor() as cursor:
        cursor.execute(query, {"organization_id": organization_id, **times, **wanted})
        for how, key in cursor.fetchall():
            related[how].add(key.bytes)
    return related


def _times(begun_micros: Sequence[int]) -> dict[str, str]:
    first, last = min(begun_micros), max(begun_micros)
    return {
        **between(first, last, "first", "last"),
        **between(first - REACH_MICROS, last + REACH_MICROS, "from", "to"),
    }


def _line(organization_id: int, row: SpanRow) -> str:
    first = (
        str(organization_id),
        moment(row.begun_micros),
        row.span_key.hex(),
        row.parent_key.hex() if row.parent_key else "\\N",
        row.group.hex() if row.group else "\\N",
        "t" if row.wraps else "f",
    )
    seen = row.observation
    if seen is None or row.known is None:
        return "\t".join((*first, "\\N", *_LINK_REST, as_json(said_tags(row.tags)))) + "\n"
    numbers = line(numbers_of(seen))
    return (
        "\t".join(first)
        + f"\t{row.known.profile_id}\t\\\\x{seen.trace_id.hex()}\t\\\\x{seen.span_id.hex()}"
        + f"\t{seen.start_unix_ns % 1000}\t{seen.end_unix_ns - seen.start_unix_ns}\t{numbers}"
        + f"\t{text(seen.response_id)}\t{text(seen.tags.user)}\t{text(seen.tags.session)}"
        + f"\t{text(seen.request_hash)}\t{text(seen.prefix_hashes)}\t{as_json(row.known.raw)}\n"
    )


def read(found: Sequence[Sequence[Any]]) -> Iterator[SpanRow]:
    """Rows of SELECT {READ} FROM attribution_span AS s."""
    profiles.load(row[5] for row in found if row[5] is not None)
    return map(_row, found)


def _row(columns: Sequence[Any]) -> SpanRow:
    span_key, parent_key, call_id, wraps, started_at, profile_id, *rest = columns
    trace_id, span_id, start_rest_ns, duration_ns = rest[: len(_OWN)]
    numbers = rest[len(_OWN) : len(_OWN) + len(NUMBERS)]
    response_id, user, session, *hashes, tags = rest[len(_OWN) + len(NUMBERS) :]
    begun_micros = micros_of(started_at)
    row = SpanRow(
        span_key.bytes,
        parent_key.bytes if parent_key else None,
        begun_micros,
        call_id.bytes if call_id else None,
        wraps,
    )
    if profile_id is None:
        # Django leaves jsonb as text to cursors of our own.
        row.tags = Tags(**json.loads(tags)) if tags else NO_TAGS
        return row
    start_unix_ns = begun_micros * 1000 + start_rest_ns
    raw = {"user": user, "session": session} | (json.loads(tags) if tags else {})
    row.observation = profiles.rebuilt(
        profile_id,
        numbers,
        raw,
        trace_id=bytes(trace_id),
        span_id=bytes(span_id),
        parent_span_id=None,
        start_unix_ns=start_unix_ns,
        end_unix_ns=start_unix_ns + duration_ns,
        response_id=response_id or "",
        request_hash=hashes[0] or "",
        prefix_hashes=hashes[1] or "",
    )
    row.key_id = profiles.key_of(profile_id)
    row.tags = row.observation.tags
    return row
