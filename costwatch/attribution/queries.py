"""Every read of what was used. Each is scoped to one organization.

calls, call       single requests, from one or few days of the ledger
latency           percentiles from the hourly histograms; histograms, percentiles_of: of several together
capacity          devices' wall time: attributed, busy for nobody, idle
used_period       from the first hour of use to the last; last_used: of each source
payers_in         why which team pays for a source
ingest_health     what was taken and what was refused; arrivals: how much in which hour; lags: how late
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Exists, F, Max, Min, OuterRef, Q, QuerySet, Subquery, Sum

from collectors.observation import Observation, Tags
from costwatch.accounts.models import Organization, Team
from costwatch.attribution import family
from costwatch.attribution.copying import micros_of
from costwatch.attribution.family import Told
from costwatch.attribution.merge import Seen, outermost_first, tags_of
from costwatch.attribution.models import (
    CapacityHour,
    Entry,
    IngestHour,
    LagHour,
    SourceTeam,
    UsageHour,
)
from costwatch.domain.latency import percentile
from costwatch.domain.periods import Period

MAX_CALLS = 1000


@dataclass(frozen=True, slots=True)
class Call:
    """One inference request. None is unknown, in every field."""

    call_id: UUID
    started_at: datetime
    duration_seconds: float | None
    team_id: int | None
    team: str | None  # None: unattributed
    feature: str | None
    customer: str | None
    user: str | None
    session: str | None
    source_id: int
    source: str
    provider: str | None
    request_model: str | None
    response_model: str | None
    response_id: str | None
    streaming: bool | None
    status: str  # "ok", or what went wrong
    input_tokens: int | None
    cache_read_input_tokens: int | None
    cache_write_input_tokens: int | None
    output_tokens: int | None
    reasoning_output_tokens: int | None
    usage_provenance: str
    device_seconds: float | None
    time_to_first_token_seconds: float | None
    time_per_output_token_seconds: float | None
    queue_seconds: float | None
    observations: int
    entry: Entry  # the ledger row in force, which pricing reads


@dataclass(frozen=True, slots=True)
class CallPage:
    calls: list[Call]
    next_cursor: str  # empty: that was all


@dataclass(frozen=True, slots=True)
class CallDetail:
    call: Call
    observations: list[dict[str, Any]]  # fields of Observation, and wraps; client first
    payer: str  # why this team pays
    revisions: int  # how often the ledger's row was written


Histogram = Mapping[str, Mapping[int, int]]  # calls by measure (LatencyHour.Measure) and bucket


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one measure; each within 2 % of the true value."""

    calls: int
    p50_ns: int
    p95_ns: int
    p99_ns: int


@dataclass(frozen=True, slots=True)
class CapacityRow:
    """A device over a period: attributed + unattributed + idle = wall."""

    device_id: str
    device_type: str
    wall_ns: int
    attributed_ns: int
    unattributed_ns: int
    idle_ns: int


@dataclass(frozen=True, slots=True)
class IngestRow:
    key_id: int
    key: str
    outcome: str
    items: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Of so many bodies."""

    bodies: int
    average_seconds: float
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class Lag:
    """How late telemetry was; None: there was none. Of a body the call that ended first counts."""

    arrival: Wait | None  # from a call's end until it was received
    adding: Wait | None  # from then until it was in the rollups, of what changed a sum


class BadCursor(ValueError):
    """A cursor that calls() did not give."""


# Single requests


def calls(
    organization: Organization,
    period: Period,
    *,
    team_ids: Collection[int] | None = None,
    unattributed: bool = False,
    model: str = "",
    feature: str = "",
    cursor: str = "",
    limit: int = 100,
) -> CallPage:
    """The calls that began in a period, latest first, one page.

    team_ids       of the teams that pay; None: everybody, the unattributed included.
    unattributed   what nobody pays for, beside what team_ids pay if there are any.
    cursor         of the page before. Raises BadCursor.
    """
    limit = max(1, min(limit, MAX_CALLS))
    entries = _in_force(organization).filter(
        started_at__gte=period.start, started_at__lt=period.end
    )
    if unattributed:
        entries = entries.filter(Q(payer_id=None) | Q(payer_id__in=list(team_ids or ())))
    elif team_ids is not None:
        entries = entries.filter(payer_id__in=list(team_ids))
    if model:
        entries = entries.filter(
            Q(offering__response_model=model)
            | Q(offering__response_model="", offering__request_model=model)
        )
    if feature:
        entries = entries.filter(source__feature=feature)
    if cursor:
        at, call_id = _position(cursor)
        entries = entries.filter(
            Q(started_at__lt=at) | Q(started_at=at, call_id__lt=call_id), started_at__lte=at
        )
    page = list(entries.order_by("-started_at", "-call_id")[: limit + 1])
    more = page[limit:]
    page = page[:limit]
    return CallPage(_calls(organization, page), _cursor(page[-1]) if more else "")


def call(organization: Organization, call_id: UUID) -> CallDetail | None:
    """One call with everybody's view of it; None where this organization has no such call."""
    entry = _in_force(organization).filter(call_id=call_id).order_by("-started_at").first()
    if entry is None:
        return None
    [found] = _calls(organization, [entry])
    [told] = _told(organization, [entry])
    seen = outermost_first(told.seen)
    return CallDetail(
        call=found,
        observations=[{**asdict(one.observation), "wraps": one.wraps} for one in seen],
        payer=_payer(entry),
        revisions=entry.revision,
    )


def _in_force(organization: Organization) -> QuerySet[Any]:
    """Ledger rows that count now, with the id of the team that pays as payer_id."""
    reversal = Entry.objects.filter(
        organization=organization,
        call_id=OuterRef("call_id"),
        started_at=OuterRef("started_at"),
        revision=OuterRef("revision"),
        sign=-1,
    )
    payer = _payers_at(OuterRef("source_id"), OuterRef("started_at"))
    return (
        Entry.objects.filter(organization=organization, sign=1)
        .filter(~Exists(reversal))
        .select_related("source", "offering")
        .annotate(payer_id=Subquery(payer.values("team_id")[:1]))
    )


def _payers_at(source_id: Any, moment: Any) -> QuerySet[SourceTeam]:
    # Edges of rules are whole hours, so the moment decides as its hour would.
    return SourceTeam.objects.filter(
        Q(valid_from=None) | Q(valid_from__lte=moment),
        Q(valid_until=None) | Q(valid_until__gt=moment),
        source_id=source_id,
    )


def _payer(entry: Entry) -> str:
    payer = _payers_at(entry.source_id, entry.started_at).select_related("rule").first()
    if payer is None:
        return "no rule matches"
    return f"rule {payer.rule}" if payer.rule else payer.reason


def _calls(organization: Organization, entries: Sequence[Entry]) -> list[Call]:
    if not entries:
        return []
    teams = dict(Team.objects.filter(organization=organization).values_list("pk", "name"))
    return [
        _call(entry, told.seen, told.inherited, teams)
        for entry, told in zip(entries, _told(organization, entries), strict=True)
    ]


def _told(organization: Organization, entries: Sequence[Entry]) -> list[Told]:
    calls = [(entry.call_id.bytes, micros_of(entry.started_at)) for entry in entries]
    found = family.told(organization.pk, calls)
    return [told or Told(call, (), (), ()) for (call, _), told in zip(calls, found, strict=True)]


def _call(
    entry: Any, seen: Iterable[Seen], inherited: Sequence[Tags], teams: dict[int, str]
) -> Call:
    outer = outermost_first([one for one in seen if not one.wraps])
    counted = [one.observation for one in outer]
    tags = tags_of(outer, inherited)
    team_id = entry.payer_id
    return Call(
        call_id=entry.call_id,
        started_at=entry.started_at,
        duration_seconds=_seconds(entry.duration_ns),
        team_id=team_id,
        team=teams.get(team_id) if team_id is not None else None,
        feature=entry.source.feature or None,
        customer=entry.source.customer or None,
        user=tags.user,
        session=tags.session,
        source_id=entry.source_id,
        source=str(entry.source),
        provider=entry.offering.provider or None,
        request_model=entry.offering.request_model or None,
        response_model=entry.offering.response_model or None,
        response_id=next((o.response_id for o in counted if o.response_id), None),
        streaming=next((o.streaming for o in counted if o.streaming is not None), None),
        status=next((o.error_type for o in counted if o.error_type), "failed")
        if entry.failed
        else "ok",
        input_tokens=entry.input_tokens,
        cache_read_input_tokens=entry.cache_read_input_tokens,
        cache_write_input_tokens=entry.cache_write_input_tokens,
        output_tokens=entry.output_tokens,
        reasoning_output_tokens=entry.reasoning_output_tokens,
        usage_provenance=_provenance(entry, counted),
        device_seconds=_seconds(entry.device_ns),
        time_to_first_token_seconds=_seconds(entry.time_to_first_token_ns),
        time_per_output_token_seconds=_seconds(entry.time_per_output_token_ns),
        queue_seconds=_seconds(entry.queue_ns),
        observations=len(counted),
        entry=entry,
    )


def _provenance(entry: Entry, counted: Sequence[Observation]) -> str:
    if not entry.usage_known:
        return "absent"
    reported = any(o.provenance == "reported" for o in counted)
    return "reported" if reported else "estimated"


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


def _cursor(entry: Entry) -> str:
    said = f"{entry.started_at.isoformat()} {entry.call_id}"
    return base64.urlsafe_b64encode(said.encode()).decode()


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        at, call_id = base64.urlsafe_b64decode(cursor).decode().split(" ")
        return datetime.fromisoformat(at).astimezone(UTC), UUID(call_id)
    except (binascii.Error, ValueError, OverflowError) as error:
        raise BadCursor(f"cursor {cursor!r}: expected the next_cursor of a page") from error


# Hourly sums

_BY = {
    "team": "payer.team_id",
    "model": "coalesce(nullif(offering.response_model, ''), offering.request_model)",
    "provider": "offering.provider",
    "feature": "source.feature",
    "source": "source.id",
    "": "NULL",
}
_LATENCY = """
SELECT {by}, hour.measure, hour.bucket, sum(hour.calls)
  FROM attribution_latencyhour AS hour
  JOIN attribution_source AS source ON source.id = hour.source_id
  JOIN attribution_offering AS offering ON offering.id = hour.offering_id
  LEFT JOIN attribution_sourceteam AS payer ON payer.source_id = hour.source_id
       AND (payer.valid_from IS NULL OR payer.valid_from <= hour.hour)
       AND (payer.valid_until IS NULL OR payer.valid_until > hour.hour)
 WHERE hour.organization_id = %(organization)s AND hour.hour >= %(start)s AND hour.hour < %(end)s
   AND (%(teams)s::bigint[] IS NULL OR payer.team_id = ANY(%(teams)s::bigint[]))
 GROUP BY 1, 2, 3
HAVING sum(hour.calls) > 0
"""


def latency(
    organization: Organization,
    period: Period,
    *,
    by: str = "",
    team_ids: Collection[int] | None = None,
) -> dict[Any, dict[str, Percentiles]]:
    """Percentiles by what was asked for, then by measure. Arguments as for histograms()."""
    found = histograms(organization, period, by=by, team_ids=team_ids)
    return {key: percentiles_of([histogram]) for key, histogram in found.items()}


def histograms(
    organization: Organization,
    period: Period,
    *,
    by: str = "",
    team_ids: Collection[int] | None = None,
) -> dict[Any, Histogram]:
    """Calls by what was asked for.

    by   "team" (ids; None: unattributed), "model", "provider", "feature", "source" (ids); "" is one row, under None.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _LATENCY.format(by=_BY[by]),
            {
                "organization": organization.pk,
                "start": period.start,
                "end": period.end,
                "teams": None if team_ids is None else list(team_ids),
            },
        )
        found: dict[Any, dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
        for key, measure, bucket, count in cursor:
            found[key][measure][bucket] = int(count)
    return {**found}


def percentiles_of(several: Iterable[Histogram]) -> dict[str, Percentiles]:
    """By measure, of all these calls together: percentiles of parts do not add up to those of the whole."""
    whole: dict[str, Counter[int]] = defaultdict(Counter)
    for histogram in several:
        for measure, buckets in histogram.items():
            whole[measure].update(buckets)
    return {measure: _percentiles(buckets) for measure, buckets in whole.items()}


def _percentiles(buckets: Mapping[int, int]) -> Percentiles:
    return Percentiles(
        sum(buckets.values()),
        *(percentile(buckets, fraction) or 0 for fraction in (0.5, 0.95, 0.99)),
    )


def capacity(organization: Organization, period: Period) -> list[CapacityRow]:
    """Each device's time over a period, by device."""
    rows = (
        CapacityHour.objects.filter(
            organization=organization, hour__gte=period.start, hour__lt=period.end
        )
        .values("device_id", "device_type")
        .annotate(
            wall=Sum("wall_ns"),
            attributed=Sum("attributed_ns"),
            unattributed=Sum("unattributed_ns"),
            idle=Sum("idle_ns"),
        )
        .order_by("device_type", "device_id")
    )
    return [
        CapacityRow(
            row["device_id"],
            row["device_type"],
            int(row["wall"]),
            int(row["attributed"]),
            int(row["unattributed"]),
            int(row["idle"]),
        )
        for row in rows
    ]


# Sources, and what the keys bring


def used_period(organization: Organization) -> Period | None:
    """From the first hour of use to the end of the last; None where nothing was used."""
    hours = UsageHour.objects.filter(organization=organization).aggregate(
        first=Min("hour"), last=Max("hour")
    )
    if hours["first"] is None:
        return None
    return Period(hours["first"], hours["last"] + timedelta(hours=1))


def last_used(
    organization: Organization, period: Period, source_ids: Collection[int]
) -> dict[int, datetime]:
    """The last hour of a period with use, by source."""
    hours = UsageHour.objects.filter(
        organization=organization,
        hour__gte=period.start,
        hour__lt=period.end,
        source__in=source_ids,
        calls__gt=0,
    )
    return dict(hours.values_list("source").annotate(Max("hour")).order_by())


def payers_in(
    organization: Organization, period: Period, source_ids: Collection[int]
) -> dict[tuple[int, int | None], SourceTeam]:
    """Why a team pays for a source, by their ids; of several reasons in a period the latest."""
    rows = SourceTeam.objects.filter(
        Q(valid_from=None) | Q(valid_from__lt=period.end),
        Q(valid_until=None) | Q(valid_until__gt=period.start),
        organization=organization,
        source__in=source_ids,
    )
    ordered = rows.select_related("rule").order_by(F("valid_from").asc(nulls_first=True))
    return {(row.source_id, row.team_id): row for row in ordered}


def ingest_health(
    organization: Organization, period: Period, beginning: str = ""
) -> list[IngestRow]:
    """What arrived in a period, by key and by what became of it, the most frequent first.

    beginning   only outcomes that begin so.
    """
    rows = (
        IngestHour.objects.filter(
            organization=organization,
            hour__gte=period.start,
            hour__lt=period.end,
            outcome__startswith=beginning,
        )
        .values("outcome", "key_id", name=F("key__name"), shown=F("key__shown_prefix"))
        .annotate(total=Sum("items"))
        .order_by("-total", "outcome")
    )
    return [
        IngestRow(
            row["key_id"], f"{row['name']} ({row['shown']}…)", row["outcome"], int(row["total"])
        )
        for row in rows
    ]


def arrivals(organization: Organization, period: Period) -> dict[int, dict[datetime, int]]:
    """How many items arrived in each hour of a period, by key."""
    rows = (
        IngestHour.objects.filter(
            organization=organization, hour__gte=period.start, hour__lt=period.end
        )
        .values_list("key_id", "hour")
        .annotate(Sum("items"))
        .order_by()
    )
    found: dict[int, dict[datetime, int]] = defaultdict(dict)
    for key_id, hour, items in rows:
        found[key_id][hour] = int(items)
    return found


def lags(organization: Organization, period: Period) -> dict[int, Lag]:
    """How late what was received in a period was, by key."""
    rows = (
        LagHour.objects.filter(
            organization=organization, hour__gte=period.start, hour__lt=period.end
        )
        .values_list("key_id")
        .annotate(Sum("bodies"), Sum("arrival_ms"), Max("longest_arrival_ms"))
        .annotate(Sum("added_bodies"), Sum("adding_ms"), Max("longest_adding_ms"))
        .order_by()
    )
    return {
        key_id: Lag(_wait(*map(int, sums[:3])), _wait(*map(int, sums[3:])))
        for key_id, *sums in rows
    }


def _wait(bodies: int, ms: int, longest_ms: int) -> Wait | None:
    return Wait(bodies, ms / bodies / 1000, longest_ms / 1000) if bodies else None
