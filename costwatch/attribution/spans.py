"""Rows of Span: what was seen.

    rows        a decoded body, one row per distinct span
    keep        writes those that are new, and says which of them have relations beyond the body
    read        rows for a query of family.py

Ids are 16 bytes and moments microseconds here; as text they go to Postgres, which spares an object per value.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from django.db import connection

from collectors.observation import Decoded, Observation, Provenance, SpanLink, Tags
from costwatch.accounts.models import IngestKey
from costwatch.attribution import profiles
from costwatch.attribution.identity import REACH_MICROS, group_of, span_key, start_micros
from costwatch.attribution.profiles import NUMBERS, Known, numbers_of, said_tags

NO_TAGS = Tags()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OWN = ("trace_id", "span_id", "start_rest_ns", "duration_ns")
_TEXTS = ("response_id", "end_user", "session")
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


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows that were not kept before, and the keys and groups that kept rows have in common with them."""

    fresh: Mapping[bytes, SpanRow]
    above: Collection[bytes]  # kept rows, the parents of fresh ones among them
    below: Collection[bytes]  # fresh rows that are parents of kept ones
    same: Collection[bytes]  # groups


def rows(key: IngestKey, decoded: Decoded) -> dict[bytes, SpanRow]:
    """One row per distinct span; a span that is an observation is not also a link."""
    found: dict[bytes, SpanRow] = {}
    for observation in decoded.observations:
        row = _observation_row(key, observation)
        found.setdefault(row.span_key, row)
    about_calls = {(seen.span_id, seen.trace_id) for seen in decoded.observations}
    for link in decoded.links:
        if (link.span_id, link.trace_id) not in about_calls:
            row = _link_row(link)
            found.setdefault(row.span_key, row)
    return found


def _observation_row(key: IngestKey, observation: Observation) -> SpanRow:
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


def lines(organization_id: int, found: Mapping[bytes, SpanRow]) -> dict[bytes, str]:
    """The rows for COPY, made before anybody has to wait for it."""
    return {key: _line(organization_id, row) for key, row in found.items()}


def keep(
    organization_id: int, found: Mapping[bytes, SpanRow], as_lines: Mapping[bytes, str]
) -> Kept:
    """Write the rows that were not kept before."""
    if not found:
        return Kept({}, (), (), ())
    times = _times(found.values())
    related = _find(_RELATED, organization_id, times, **_what_to_look_for(found))
    if related["same"]:
        # Of those with a response id only here: a span that was kept has left its id.
        again = [key for key, row in found.items() if row.group in related["same"]]
        related["seen"] |= _find(_SEEN, organization_id, times, keys=array(again))["seen"]
    fresh = {key: row for key, row in found.items() if key not in related["seen"]}
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY attribution_span ({', '.join(_COLUMNS)}) FROM STDIN") as copy,
    ):
        copy.write("".join(as_lines[key] for key in fresh))
    return Kept(fresh, related["above"] | related["seen"], related["below"], related["same"])


def _find(
    query: str, organization_id: int, times: Mapping[str, str], **keys: str
) -> dict[str, set[bytes]]:
    related: dict[str, set[bytes]] = {"seen": set(), "above": set(), "below": set(), "same": set()}
    with connection.cursor() as cursor:
        cursor.execute(query, {"organization_id": organization_id, **times, **keys})
        for how, key in cursor.fetchall():
            related[how].add(key.bytes)
    return related


def _times(rows: Iterable[SpanRow]) -> dict[str, str]:
    begun = [row.begun_micros for row in rows]
    first, last = min(begun), max(begun)
    return {
        **between(first, last, "first", "last"),
        **between(first - REACH_MICROS, last + REACH_MICROS, "from", "to"),
    }


def _what_to_look_for(found: Mapping[bytes, SpanRow]) -> dict[str, str]:
    groups = {
        key: row.group
        for key, row in found.items()
        if row.group is not None and row.observation is not None and row.observation.response_id
    }
    parents = {row.parent_key for row in found.values() if row.parent_key is not None}
    return {
        "keys": array(found),
        "without_id": array(found.keys() - groups.keys()),
        "parents": array(parents - found.keys()),
        "groups": array(groups.values()),
    }


def array(keys: Iterable[bytes]) -> str:
    """Ids as a Postgres array."""
    return "{" + ",".join({key.hex() for key in keys}) + "}"


def between(first_micros: int, last_micros: int, *names: str) -> dict[str, str]:
    return dict(zip(names, (moment(first_micros), moment(last_micros)), strict=True))


def moment(micros: int) -> str:
    """A moment as Postgres reads it."""
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}+00"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"


def micros_of(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def datetime_of(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def line(values: tuple[object, ...]) -> str:
    """Numbers, truth values and texts that need no escaping, as COPY reads them, with tabs between."""
    return (_format(len(values)) % values).replace("None", "\\N")


@lru_cache(maxsize=64)
def _format(width: int) -> str:
    return "\t".join(["%s"] * width)


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
        return "\t".join((*first, "\\N", *_LINK_REST, _json(said_tags(row.tags)))) + "\n"
    numbers = line(numbers_of(seen))
    return (
        "\t".join(first)
        + f"\t{row.known.profile_id}\t\\\\x{seen.trace_id.hex()}\t\\\\x{seen.span_id.hex()}"
        + f"\t{seen.start_unix_ns % 1000}\t{seen.end_unix_ns - seen.start_unix_ns}\t{numbers}"
        + f"\t{_text(seen.response_id)}\t{_text(seen.tags.user)}\t{_text(seen.tags.session)}"
        + f"\t{_json(row.known.raw_tags)}\n"
    )


def _text(said: str | None) -> str:
    if not said:
        return "\\N"
    # Decoded texts are printable: nothing but a backslash means anything to COPY.
    return said.replace("\\", "\\\\") if said.isprintable() else _escaped(said)


def _json(said: Mapping[str, str] | None) -> str:
    return _escaped(json.dumps(said)) if said else "\\N"


def _escaped(said: str) -> str:
    return said.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def read(found: Sequence[Sequence[Any]]) -> Iterator[SpanRow]:
    """Rows of SELECT {READ} FROM attribution_span AS s."""
    profiles.load(row[5] for row in found if row[5] is not None)
    return map(_row, found)


def _row(columns: Sequence[Any]) -> SpanRow:
    span_key, parent_key, call_id, wraps, started_at, profile_id, *rest = columns
    trace_id, span_id, start_rest_ns, duration_ns = rest[: len(_OWN)]
    numbers = rest[len(_OWN) : len(_OWN) + len(NUMBERS)]
    response_id, user, session, tags = rest[len(_OWN) + len(NUMBERS) :]
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
    raw_tags = {"user": user, "session": session} | (json.loads(tags) if tags else {})
    row.observation = profiles.rebuilt(
        profile_id,
        numbers,
        raw_tags,
        trace_id=bytes(trace_id),
        span_id=bytes(span_id),
        parent_span_id=None,
        start_unix_ns=start_unix_ns,
        end_unix_ns=start_unix_ns + duration_ns,
        response_id=response_id or "",
    )
    row.key_id = profiles.key_of(profile_id)
    row.tags = row.observation.tags
    return row
