"""Observations → calls → ledger entries, in one transaction.

    take            a decoded body, in the name of a key: all or nothing
    ├─ keep         spans that were not seen before
    ├─ affected     the calls that they can change: their own, those below them, those around them
    └─ _count       each affected call merged from all its observations; what changed is reversed and counted anew

A call's entry is a function of the set of its observations, so order, repetition and splitting change no sum. One
organization's bodies are taken one after the other (an advisory lock): two that speak of the same call would
otherwise count it twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from collectors.observation import Decoded, Observation, Refusal, SpanLink
from costwatch.accounts.models import IngestKey
from costwatch.attribution import capacity, partitions, spans
from costwatch.attribution.dimensions import offering_id, source_id
from costwatch.attribution.health import count_outcomes
from costwatch.attribution.identity import call_id, group_of, span_key
from costwatch.attribution.merge import MergedCall, merge, started_at
from costwatch.attribution.models import Batch
from costwatch.attribution.spans import SpanRow, Told

# Who waits too long for the others is told to come again, instead of holding a thread and a connection.
_LOCK = "SET LOCAL lock_timeout = %s; SELECT pg_advisory_xact_lock(hashtext('ingest'), %s)"
_FUTURE = timedelta(hours=1)  # a clock may be wrong, but not by more

_FACTS = (
    "source_id",
    "offering_id",
    "failed",
    "usage_known",
    "contradicted",
)
_QUANTITIES = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
    "device_ns",
    "device_ns_marginal",
    "device_ns_alone",
    "energy_uj",
    "prefix_repeated_tokens",
    "repeated_device_ns",
)
_LATENCIES = ("duration_ns", "time_to_first_token_ns", "time_per_output_token_ns", "queue_ns")
_STATE = ("started_at", *_FACTS, *_QUANTITIES, *_LATENCIES)
_COLUMNS = ("organization_id", "call_id", "revision", "sign", "batch_id", *_STATE)
_IN_FORCE = f"""
SELECT call_id, revision, sign, {", ".join(_STATE)} FROM attribution_entry
 WHERE organization_id = %(organization_id)s AND started_at BETWEEN %(first)s AND %(last)s
   AND call_id = ANY(%(calls)s)
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a body: for OTLP's partial success, and for ingest health."""

    outcomes: Counter[str]
    refusals: Sequence[Refusal]
    batch_id: int | None  # None: no sum changed


@dataclass(frozen=True, slots=True)
class InForce:
    """The state of a call that the ledger holds now, without sign; None: nothing is counted."""

    revision: int
    state: tuple[object, ...] | None


def take(key: IngestKey, decoded: Decoded) -> Taken:
    """Write what a body of telemetry says, once. All of it is durable when this returns.

    Raises django.db.DatabaseError when Postgres can't take it; then nothing was written, and sending it again is
    right.
    """
    kept, refusals = _within_retention(decoded)
    rows = _rows(key, kept)
    _prepare_days(rows)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK, [f"{settings.OTLP_WAIT_SECONDS}s", key.organization_id])
        fresh = spans.keep(key.organization_id, rows)
        refusals += capacity.count(key.organization_id, kept.device_times)
        entries = _count(key.organization_id, spans.affected(key.organization_id, fresh))
        batch_id = _write(key, entries) if entries else None
        outcomes = _outcomes(rows, fresh, refusals)
        count_outcomes(key, outcomes)
    return Taken(outcomes, refusals, batch_id)


def _within_retention(decoded: Decoded) -> tuple[Decoded, list[Refusal]]:
    """The body without what is of the future or older than what is kept, and why that was refused."""
    latest = timezone.now() + _FUTURE
    earliest = timezone.now() - timedelta(days=settings.RETENTION_DAYS)
    first_ns, last_ns = (int(moment.timestamp()) * 1_000_000_000 for moment in (earliest, latest))
    begun = [seen.start_unix_ns for seen in decoded.observations]
    begun += [time.start_unix_ns for time in decoded.device_times]
    future = sum(start_ns > last_ns for start_ns in begun)
    future += sum(
        time.start_unix_ns <= last_ns < time.time_unix_ns for time in decoded.device_times
    )
    old = sum(start_ns < first_ns for start_ns in begun)
    refusals = list(decoded.refusals)
    if future:
        refusals.append(Refusal(f"after {latest:%Y-%m-%d %H:%M} UTC, in the future", future))
    if old:
        refusals.append(Refusal(f"before {earliest:%Y-%m-%d}, older than what is kept", old))
    kept = Decoded(
        [seen for seen in decoded.observations if first_ns <= seen.start_unix_ns <= last_ns],
        [link for link in decoded.links if first_ns <= link.start_unix_ns <= last_ns],
        [
            t
            for t in decoded.device_times
            if first_ns <= t.start_unix_ns <= t.time_unix_ns <= last_ns
        ],
        refusals,
        decoded.items,
    )
    return kept, refusals


def _rows(key: IngestKey, decoded: Decoded) -> list[SpanRow]:
    """One row per distinct span; a span that is an observation is not also a link."""
    rows: dict[UUID, SpanRow] = {}
    for observation in decoded.observations:
        row = _observation_row(key, observation)
        rows.setdefault(row.span_key, row)
    about_calls = {(seen.trace_id, seen.span_id) for seen in decoded.observations}
    for link in decoded.links:
        if (link.trace_id, link.span_id) not in about_calls:
            row = _link_row(link)
            rows.setdefault(row.span_key, row)
    return list(rows.values())


def _observation_row(key: IngestKey, observation: Observation) -> SpanRow:
    parent = observation.parent_span_id
    return SpanRow(
        span_key=span_key(observation.trace_id, observation.span_id),
        parent_key=span_key(observation.trace_id, parent) if parent else None,
        started_at=started_at(observation),
        call_id=group_of(observation),
        key_id=key.pk,
        wraps=observation.is_wrapper,
        observation=observation,
        tags=observation.tags,
    )


def _link_row(link: SpanLink) -> SpanRow:
    parent = link.parent_span_id
    micros = timedelta(microseconds=link.start_unix_ns // 1000)
    return SpanRow(
        span_key=span_key(link.trace_id, link.span_id),
        parent_key=span_key(link.trace_id, parent) if parent else None,
        started_at=datetime(1970, 1, 1, tzinfo=UTC) + micros,
        tags=link.tags,
    )


def _prepare_days(rows: Iterable[SpanRow]) -> None:
    partitions.ensure_days({row.started_at.date() for row in rows})


def _count(organization_id: int, affected: Sequence[Told]) -> list[tuple[Any, ...]]:
    """The entries that bring the ledger from what it holds to what the observations say. Without the batch's id.

    A call that turns out to have begun at another moment, or to be two, has another id: so what may be held of it is
    looked for wherever one of its observations began.
    """
    held = _in_force(organization_id, {entry for told in affected for entry in _places(told)})
    entries: list[tuple[Any, ...]] = []
    for told in affected:
        state = _state(organization_id, merge(told.seen, told.inherited))
        for call, at in sorted(_places(told)):
            now = held.get((call, at), InForce(0, None))
            wanted = state if state is not None and state[0] == at else None
            if wanted == now.state:
                continue
            if now.state is not None:
                entries.append((call, now.revision, -1, *_signed(now.state, -1)))
            if wanted is not None:
                entries.append((call, now.revision + 1, 1, *wanted))
    return sorted(entries, key=lambda entry: entry[:3])


def _places(told: Told) -> set[tuple[UUID, datetime]]:
    """The id and the beginning that this call has in the ledger, had, or would have if less of it were known."""
    begun = {started_at(seen.observation) for seen in told.seen}
    return {(call_id(told.group, at), at) for at in begun}


def _state(organization_id: int, merged: MergedCall | None) -> tuple[object, ...] | None:
    if merged is None:
        return None
    return (
        merged.started_at,
        source_id(organization_id, merged.source),
        offering_id(organization_id, merged.offering),
        merged.failed,
        merged.usage_known,
        merged.contradicted,
        *(getattr(merged.quantities, name) for name in _QUANTITIES),
        *(getattr(merged.latencies, name) for name in _LATENCIES),
    )


def _signed(state: Sequence[object], sign: int) -> tuple[object, ...]:
    """The state with its quantities, and nothing else, multiplied by sign."""
    first = 1 + len(_FACTS)
    last = first + len(_QUANTITIES)
    return tuple(
        value * sign if first <= i < last and isinstance(value, int) else value
        for i, value in enumerate(state)
    )


def _in_force(
    organization_id: int, places: Collection[tuple[UUID, datetime]]
) -> dict[tuple[UUID, datetime], InForce]:
    """What the ledger holds there: the last revision, and its state unless it was taken back."""
    if not places:
        return {}
    calls, begun = zip(*places, strict=True)
    search = {
        "organization_id": organization_id,
        "calls": list(calls),
        "first": min(begun),
        "last": max(begun),
    }
    with connection.cursor() as cursor:
        cursor.execute(_IN_FORCE, search)
        rows = cursor.fetchall()
    found: dict[tuple[UUID, datetime], list[tuple[object, ...]]] = defaultdict(list)
    for call, *row in rows:
        found[call, row[2]].append(tuple(row))
    return {place: _last_of(rows) for place, rows in found.items()}


def _last_of(rows: Sequence[tuple[object, ...]]) -> InForce:
    revision = max(int(str(row[0])) for row in rows)
    last = {row[1]: row[2:] for row in rows if row[0] == revision}
    return InForce(revision, None if -1 in last else last[1])


def _write(key: IngestKey, entries: Sequence[tuple[object, ...]]) -> int:
    starts = [entry[3] for entry in entries if isinstance(entry[3], datetime)]
    batch = Batch.objects.create(
        organization_id=key.organization_id,
        key=key,
        entries=len(entries),
        first_started_at=min(starts),
        last_started_at=max(starts),
    )
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY attribution_entry ({', '.join(_COLUMNS)}) FROM STDIN") as copy,
    ):
        for call, revision, sign, *state in entries:
            copy.write_row((key.organization_id, call, revision, sign, batch.pk, *state))
    return batch.pk


def _outcomes(
    rows: Sequence[SpanRow], fresh: Sequence[SpanRow], refusals: Iterable[Refusal]
) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    outcomes["duplicate"] = len(rows) - len(fresh)
    for row in fresh:
        outcomes[_outcome(row.observation)] += 1
    for refusal in refusals:
        outcomes[f"refused: {refusal.reason}"] += refusal.count
    return +outcomes


def _outcome(observation: Observation | None) -> str:
    if observation is None:
        return "link"
    if observation.is_wrapper:
        return "wrapper"
    return (
        f"contradiction: {observation.contradiction}"
        if observation.contradiction
        else "observation"
    )
