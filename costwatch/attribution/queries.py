"""Every read of what was used, but of single requests (calls.py). Each is scoped to one organization.

latency           percentiles from the hourly histograms; histograms, percentiles_of: of several together
capacity          devices' wall time: attributed, busy for nobody, idle
used_period       from the first hour of use to the last; last_used: of each source
payers_in         why which team pays for a source
ingest_health     what was taken and what was refused; arrivals: how much in which hour; lags: how late
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.db import connection
from django.db.models import F, Max, Min, Q, Sum

from costwatch.accounts.models import Organization
from costwatch.attribution.health import BESIDE_OTHERS
from costwatch.attribution.models import (
    CapacityHour,
    IngestHour,
    LagHour,
    SourceTeam,
    UsageHour,
)
from costwatch.domain.latency import percentile
from costwatch.domain.periods import Period

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
    example: str  # of the items; empty where none is needed


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
        .annotate(total=Sum("items"), one=Max("example"))
        .order_by("-total", "outcome")
    )
    return [
        IngestRow(
            row["key_id"],
            f"{row['name']} ({row['shown']}…)",
            row["outcome"],
            int(row["total"]),
            row["one"],
        )
        for row in rows
    ]


def arrivals(organization: Organization, period: Period) -> dict[int, dict[datetime, int]]:
    """How many items arrived in each hour of a period, by key."""
    beside = reduce(or_, (Q(outcome__startswith=beginning) for beginning in BESIDE_OTHERS))
    rows = (
        IngestHour.objects.filter(
            ~beside, organization=organization, hour__gte=period.start, hour__lt=period.end
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
