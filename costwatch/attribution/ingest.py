"""Observations → calls → ledger entries, in one transaction.

    take                 a decoded body, in the name of a key: all or nothing
    ├─ spans.keep        spans that were not seen before
    ├─ family.affected   the calls that they can change: their own, those below them, those around them
    ├─ ledger.draft      a call that nothing else has to do with: counted as it was seen
    ├─ _corrections      each other one merged from all its observations; what changed is reversed and counted anew
    └─ metric_use.count  what metrics say where no spans are sent

A call's entry is a function of the set of its observations, so order, repetition and splitting change no sum. One
organization's bodies are taken one after the other (an advisory lock): two that speak of the same call would
otherwise count it twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from collectors.dialects.sheets import without_sheets
from collectors.observation import Decoded, Observation, Refusal
from costwatch.accounts.models import IngestKey
from costwatch.attribution import capacity, family, ledger, metric_use, partitions, spanned, spans
from costwatch.attribution.family import Told
from costwatch.attribution.health import REPEATED_ID, count_outcomes, too_many_values
from costwatch.attribution.identity import call_id, start_micros
from costwatch.attribution.locks import lock_ingest
from costwatch.attribution.merge import merge
from costwatch.attribution.spans import Rows

_FUTURE = timedelta(hours=1)  # a clock may be wrong, but not by more


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a body: for OTLP's partial success, and for ingest health."""

    outcomes: Counter[str]
    refusals: Sequence[Refusal]
    batch_id: int | None  # None: no sum changed


def take(key: IngestKey, decoded: Decoded) -> Taken:
    """Write what a body of telemetry says, once. All of it is durable when this returns.

    Raises django.db.DatabaseError when Postgres can't take it; then nothing was written, and sending it again is
    right.
    """
    received_at = timezone.now()
    kept, refusals = _within_retention(decoded)
    points = [
        replace(point, environment=point.environment or key.environment)
        for point in kept.token_points
    ]
    rows = spans.rows(key, kept)
    wanted, text, draft = rows.wanted(), "".join(rows.lines), ledger.draft(rows)
    kinds = spanned.kinds(rows)
    partitions.ensure_days(rows.days())
    with transaction.atomic():
        # Who waits too long for the others is told to come again, instead of holding a thread and a connection.
        lock_ingest(key.organization_id, wait_seconds=settings.OTLP_WAIT_SECONDS)
        new = spans.keep(rows, wanted, text)
        refusals += capacity.count(key.organization_id, kept.device_times)
        alone, told = family.affected(new)
        corrections = _corrections(key.organization_id, told)
        arrival = ledger.Arrival(received_at, rows.first_end_unix_ns(new.fresh))
        batch_id = ledger.write(key, arrival, draft, alone, corrections)
        metrics_batch_id, of_metrics = metric_use.count(key, points, kinds)
        outcomes = _outcomes(rows, new.fresh, refusals) + of_metrics
        outcomes += _repeated(told)
        count_outcomes(key, outcomes, _examples(told))
    return Taken(outcomes, refusals, batch_id or metrics_batch_id)


def _within_retention(decoded: Decoded) -> tuple[Decoded, list[Refusal]]:
    """The body without what is of the future or older than what is kept, and why that was refused.

    The reasons carry no moments: ingest health keeps a row for each of them.
    """
    latest = timezone.now() + _FUTURE
    earliest = timezone.now() - timedelta(days=settings.RETENTION_DAYS)
    first_ns, last_ns = (int(moment.timestamp()) * 1_000_000_000 for moment in (earliest, latest))
    begun = [row.start_unix_ns for sheet in decoded.sheets for row in sheet.rows]
    if begun and not first_ns <= min(begun) <= max(begun) <= last_ns:
        decoded = without_sheets(decoded)
    begun = [seen.start_unix_ns for seen in decoded.observations]
    begun += [time.start_unix_ns for time in decoded.device_times]
    begun += [point.time_unix_ns for point in decoded.token_points]
    future = sum(start_ns > last_ns for start_ns in begun)
    future += sum(
        time.start_unix_ns <= last_ns < time.time_unix_ns for time in decoded.device_times
    )
    old = sum(start_ns < first_ns for start_ns in begun)
    refusals = list(decoded.refusals)
    if future:
        refusals.append(Refusal("lies more than an hour in the future", future))
    if old:
        days = settings.RETENTION_DAYS
        refusals.append(Refusal(f"older than what is kept ({days} days)", old))
    kept = replace(
        decoded,
        observations=[o for o in decoded.observations if first_ns <= o.start_unix_ns <= last_ns],
        links=[link for link in decoded.links if first_ns <= link.start_unix_ns <= last_ns],
        device_times=[
            t
            for t in decoded.device_times
            if first_ns <= t.start_unix_ns <= t.time_unix_ns <= last_ns
        ],
        token_points=[p for p in decoded.token_points if first_ns <= p.time_unix_ns <= last_ns],
    )
    return kept, refusals


def _corrections(organization_id: int, told: Sequence[Told]) -> list[ledger.LedgerRow]:
    """The rows that bring the ledger from what it holds to what the observations say.

    A call that turns out to have begun at another moment, or to be two, has another id: so what may be held of it is
    looked for wherever one of its observations began.
    """
    places = [_places(one) for one in told]
    held = ledger.in_force(organization_id, {place for some in places for place in some})
    rows: list[ledger.LedgerRow] = []
    for one, some in zip(told, places, strict=True):
        merged = merge(one.seen, one.inherited, shares_id=one.repeats > 0)
        for place in sorted(some):
            now = held.get(place, ledger.NEVER)
            is_here = merged is not None and place == (
                call_id(one.group, merged.begun_micros),
                merged.begun_micros,
            )
            wanted = ledger.state_of(organization_id, merged) if merged and is_here else None
            if wanted == now.state:
                continue
            if now.state is not None:
                rows.append(ledger.LedgerRow(place, now.revision, -1, now.state))
            if wanted is not None:
                rows.append(ledger.LedgerRow(place, now.revision + 1, 1, wanted))
    return rows


def _places(told: Told) -> set[ledger.Place]:
    """Where this call stands in the ledger, stood, or would stand if less of it were known."""
    begun = {start_micros(seen.observation) for seen in told.seen}
    return {(call_id(group, at), at) for group in (told.group, *told.joined) for at in begun}


def _outcomes(rows: Rows, fresh: Sequence[int], refusals: Iterable[Refusal]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    outcomes["duplicate"] = len(rows) - len(fresh)
    for place in fresh:
        row = rows.single.get(place)
        outcomes[_outcome(row.observation) if row else "observation"] += 1
        known = rows.known[place]
        for name in (known.raw or ()) if known else ():
            outcomes[too_many_values(name)] += 1
    for refusal in refusals:
        outcomes[f"refused: {refusal.reason}"] += refusal.count
    return +outcomes


def _repeated(told: Iterable[Told]) -> Counter[str]:
    return +Counter({REPEATED_ID: sum(one.new_repeats for one in told)})


def _examples(told: Iterable[Told]) -> dict[str, str]:
    repeated = [one.response_id for one in told if one.new_repeats]
    return {REPEATED_ID: repeated[-1]} if repeated else {}


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
