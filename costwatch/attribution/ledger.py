"""Rows of Entry: what one call used, signed, and what that adds to the hours.

    draft         what a body's calls come to if nothing else has to do with them: nearly always so
    state_of      what merge.py made of several observations
    in_force      what the ledger holds of calls
    write         a batch of rows, with their sums; correct: of corrections alone

A state is the values of STATE, without sign. Sums are taken here, while the rows are at hand, and reach the rollups as
one small row per batch: adding them costs nothing per call, and audit.py has rows to recount.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

from django.db import connection

from collectors.observation import Provenance, Usage
from costwatch.accounts.models import IngestKey
from costwatch.attribution.alike import (
    HOUR_MICROS,
    LATENCIES,
    MEASURES,
    QUANTITIES,
    Sums,
    entry_lines,
    sums,
)
from costwatch.attribution.copying import (
    array,
    between,
    copy_in,
    datetime_of,
    line,
    micros_of,
    moment,
)
from costwatch.attribution.dimensions import offering_id, source_id
from costwatch.attribution.identity import call_id
from costwatch.attribution.merge import MergedCall
from costwatch.attribution.spans import Rows, SpanRow
from costwatch.domain.latency import bucket_of

_FACTS = ("source_id", "offering_id", "failed", "usage_known", "contradicted")
_AFTER_FACTS, _AFTER_QUANTITIES = len(_FACTS), len(_FACTS) + len(QUANTITIES)
STATE = (*_FACTS, *QUANTITIES, *LATENCIES)
_PLACE = ("call_id", "started_at", "revision", "sign")

# What one observation says itself, in the order of Quantities, but for the last.
_quantities_said = attrgetter(*(f"usage.{field.name}" for field in fields(Usage)), *QUANTITIES[len(fields(Usage)) : -1])  # fmt: skip
_latencies_said = attrgetter(*LATENCIES[1:])

_IN_FORCE = f"""
SELECT {", ".join((*_PLACE, *STATE))} FROM attribution_entry
 WHERE organization_id = %(organization_id)s AND call_id = ANY(%(calls)s::uuid[])
   AND started_at = ANY(%(begun)s::timestamptz[]) AND started_at BETWEEN %(first)s AND %(last)s
"""
_INSERT_BATCH = """
INSERT INTO attribution_batch
       (organization_id, key_id, received_at, arrival_ms, entries, first_started_at, last_started_at, sums)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
"""
_COPY = (
    f"COPY attribution_entry (organization_id, batch_id, {', '.join((*_PLACE, *STATE))}) FROM STDIN"
)

Place = tuple[bytes, int]  # a call's id and its beginning in microseconds
State = tuple[Any, ...]


class LedgerRow(NamedTuple):
    place: Place
    revision: int
    sign: int
    state: State

    def signed(self) -> State:
        """The state with its quantities, and nothing else, multiplied by the sign."""
        if self.sign == 1:
            return self.state
        said = self.state[_AFTER_FACTS:_AFTER_QUANTITIES]
        taken_back = (None if value is None else -value for value in said)
        return (*self.state[:_AFTER_FACTS], *taken_back, *self.state[_AFTER_QUANTITIES:])


@dataclass(frozen=True, slots=True)
class InForce:
    """The state of a call that the ledger holds now; None: nothing is counted."""

    revision: int
    state: State | None


NEVER = InForce(0, None)


@dataclass(frozen=True, slots=True)
class Draft:
    """Entries and sums of a body's calls as if each were seen once, made before anybody has to wait for it."""

    rows: Rows
    single: Mapping[int, LedgerRow]  # by place
    lines: Mapping[int, str]
    sums: str  # JSON

    def sums_with(self, places: Sequence[int], corrections: Iterable[LedgerRow]) -> str:
        """JSON of the sums of the entries at these places alone, and of corrections."""
        others = list(corrections)
        if not others and len(places) == len(self.lines):
            return self.sums
        own = _sums_of(self.rows, self.single, set(places))
        return json.dumps(_together([own, _sums(others)]))


def draft(rows: Rows) -> Draft:
    single = {
        place: _first_entry(row)
        for place, row in rows.single.items()
        if row.observation is not None and not row.wraps
    }
    lines = {place: _line(entry) for place, entry in single.items()}
    for first, alike in rows.alike.items():
        lines |= enumerate(entry_lines(alike), first)
    return Draft(rows, single, lines, json.dumps(_sums_of(rows, single, lines.keys())))


def _sums_of(rows: Rows, single: Mapping[int, LedgerRow], places: Collection[int]) -> Sums:
    found = [_sums(entry for place, entry in single.items() if place in places)]
    for first, alike in rows.alike.items():
        which = [place for place in range(len(alike)) if first + place in places]
        if which:
            found.append(sums(alike, which))
    return _together(found)


def _together(some: Iterable[Sums]) -> Sums:
    together: Sums = {"usage": [], "latency": []}
    for each in some:
        for name, said in each.items():
            together[name] += said
    return together


def _first_entry(row: SpanRow) -> LedgerRow:
    """What merge makes of a single observation with nothing around it, in fewer steps."""
    seen, known = row.observation, row.known
    assert seen is not None
    assert known is not None
    assert row.group is not None
    state = (
        known.source_id,
        known.offering_id,
        bool(seen.error_type),
        seen.provenance is not Provenance.ABSENT,
        bool(seen.contradiction),
        *_quantities_said(seen),
        seen.device_ns if seen.request_repeated else None,
        seen.end_unix_ns - seen.start_unix_ns,
        *_latencies_said(seen),
    )
    return LedgerRow((call_id(row.group, row.begun_micros), row.begun_micros), 1, 1, state)


def state_of(organization_id: int, merged: MergedCall) -> State:
    return (
        source_id(organization_id, merged.source),
        offering_id(organization_id, merged.offering),
        merged.failed,
        merged.usage_known,
        merged.contradicted,
        *(getattr(merged.quantities, name) for name in QUANTITIES),
        *(getattr(merged.latencies, name) for name in LATENCIES),
    )


def in_force(organization_id: int, places: Collection[Place]) -> dict[Place, InForce]:
    """What the ledger holds there: the last revision, and its state unless it was taken back."""
    if not places:
        return {}
    calls, begun = zip(*places, strict=True)
    search: dict[str, Any] = {
        "organization_id": organization_id,
        "calls": array(calls),
        "begun": "{" + ",".join(moment(micros) for micros in set(begun)) + "}",
        **between(min(begun), max(begun), "first", "last"),
    }
    with connection.cursor() as cursor:
        cursor.execute(_IN_FORCE, search)
        found: dict[Place, list[State]] = defaultdict(list)
        for call, started_at, *row in cursor.fetchall():
            found[call.bytes, micros_of(started_at)].append(tuple(row))
    return {place: _last_of(rows) for place, rows in found.items()}


def _last_of(rows: Sequence[State]) -> InForce:
    revision = max(row[0] for row in rows)
    last = {row[1]: row[2:] for row in rows if row[0] == revision}
    taken_back = last.get(-1)
    return InForce(revision, None if taken_back is not None else last[1])


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a body was received, and when the first of its new calls had ended: that one waited longest."""

    received_at: datetime
    ended_unix_ns: int | None  # None: it has no new call

    @property
    def lag_ms(self) -> int | None:
        """A clock ahead makes zero."""
        if self.ended_unix_ns is None:
            return None
        return max(0, micros_of(self.received_at) // 1000 - self.ended_unix_ns // 1_000_000)


def write(
    key: IngestKey,
    arrival: Arrival,
    made: Draft,
    alone: Sequence[int],
    corrections: Sequence[LedgerRow],
) -> int | None:
    """Write entries of a draft, and others, as one batch, and return its id; None where there are none.

    alone   the places of the draft's.
    """
    if not alone and not corrections:
        return None
    begun = [made.rows.begun_micros[place] for place in alone]
    begun += [row.place[1] for row in corrections]
    batch_id = _insert_batch(
        key.organization_id,
        key.pk,
        arrival.received_at,
        arrival.lag_ms,
        len(begun),
        datetime_of(min(begun)),
        datetime_of(max(begun)),
        made.sums_with(alone, corrections),
    )
    lines = [made.lines[place] for place in alone] + [_line(row) for row in corrections]
    owner = f"{key.organization_id}\t{batch_id}\t"
    copy_in(_COPY, owner + owner.join(lines))
    return batch_id


def correct(key: IngestKey, received_at: datetime, corrections: Sequence[LedgerRow]) -> int:
    """Write corrections that no telemetry asked for as one batch, in the name of a key; returns its id."""
    begun = [row.place[1] for row in corrections]
    batch_id = _insert_batch(
        key.organization_id,
        key.pk,
        received_at,
        None,
        len(corrections),
        datetime_of(min(begun)),
        datetime_of(max(begun)),
        json.dumps(_sums(corrections)),
    )
    owner = f"{key.organization_id}\t{batch_id}\t"
    copy_in(_COPY, owner + owner.join(map(_line, corrections)))
    return batch_id


def _insert_batch(*values: str | int | datetime | None) -> int:
    """Its id. Written without Django's models, for which many wait while one of them saves itself."""
    with connection.cursor() as cursor:
        cursor.execute(_INSERT_BATCH, values)
        batch_id: int = cursor.fetchone()[0]
        return batch_id


def _line(row: LedgerRow) -> str:
    """The row for COPY, from its place on."""
    call, begun_micros = row.place
    values = line((row.revision, row.sign, *row.signed()))
    return f"{call.hex()}\t{moment(begun_micros)}\t{values}\n"


def _sums(rows: Iterable[LedgerRow]) -> Sums:
    """What these rows add to each hour, source and offering, as rollups.py reads it."""
    usage: dict[tuple[int, int, int], list[State]] = defaultdict(list)
    latency: Counter[tuple[int, int, int, str, int]] = Counter()
    for row in rows:
        state = row.signed()
        about = (row.place[1] // HOUR_MICROS, state[0], state[1])
        usage[about].append((row.sign, *state[2:_AFTER_QUANTITIES]))
        for measure, ns in zip(MEASURES, state[_AFTER_QUANTITIES:], strict=True):
            if ns is not None:
                latency[*about, measure, bucket_of(ns)] += row.sign
    return {
        "usage": [[*about, *_sum(columns)] for about, columns in usage.items()],
        "latency": [[*about, calls] for about, calls in latency.items() if calls],
    }


def _sum(rows: Sequence[State]) -> list[int]:
    """In the order of rollups.USAGE_COLUMNS."""
    signs, failed, known, contradicted, *quantities = zip(*rows, strict=True)
    return [
        sum(signs),
        _signs_where(failed, signs),
        sum(signs) - _signs_where(known, signs),
        _signs_where(contradicted, signs),
        *(sum(value for value in column if value) for column in quantities),
    ]


def _signs_where(flags: Iterable[bool], signs: Iterable[int]) -> int:
    return sum(sign for flag, sign in zip(flags, signs, strict=True) if flag)
