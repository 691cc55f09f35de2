"""The sums of ledger entries → hourly rollups, each batch exactly once. The only raw SQL that writes rollups.

One transaction claims batches, adds them up, adds that to the rollups and marks them; whatever dies in between, either
all of it happened or nothing. Its cost depends on how many sums there are, not on calls, nor on what is stored.
"""

from datetime import datetime

from django.db import connection, transaction
from django.utils import timezone

from costwatch.attribution.health import count_lag
from costwatch.attribution.models import Batch
from costwatch.attribution.signals import usage_added
from costwatch.domain.latency import LN_GAMMA

_BATCHES_AT_ONCE = 500

# The sums of a set of entries, for audit.py, which recounts what ledger.py added up when it wrote them.
USAGE_SUMS = """
    sum(sign) AS calls,
    sum(sign) FILTER (WHERE failed) AS failed_calls,
    sum(sign) FILTER (WHERE NOT usage_known) AS unknown_usage_calls,
    sum(sign) FILTER (WHERE contradicted) AS contradicted_calls,
    sum(input_tokens) AS input_tokens,
    sum(cache_read_input_tokens) AS cache_read_input_tokens,
    sum(cache_write_input_tokens) AS cache_write_input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(reasoning_output_tokens) AS reasoning_output_tokens,
    sum(device_ns) AS device_ns,
    sum(device_ns_marginal) AS device_ns_marginal,
    sum(device_ns_alone) AS device_ns_alone,
    sum(energy_uj) AS energy_uj,
    sum(prefix_repeated_tokens) AS prefix_repeated_tokens,
    sum(repeated_device_ns) AS repeated_device_ns
"""
USAGE_COLUMNS = tuple(
    line.rsplit(" AS ", 1)[1].rstrip(",") for line in USAGE_SUMS.strip().splitlines()
)

# domain/latency.py's bucket_of, in SQL.
LATENCY_BUCKETS = f"""
    CROSS JOIN LATERAL (VALUES
        ('duration', duration_ns),
        ('time_to_first_token', time_to_first_token_ns),
        ('time_per_output_token', time_per_output_token_ns),
        ('queue', queue_ns)
    ) AS latency (measure, ns)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN ns > 1 THEN ceil(ln(ns::double precision) / {LN_GAMMA!r})::smallint ELSE 0::smallint END
    ) AS b (bucket)
    WHERE ns IS NOT NULL
"""

_KEY = """
organization_id, to_timestamp((said->>0)::bigint * 3600) AS hour, (said->>1)::bigint AS source_id,
       (said->>2)::bigint AS offering_id"""
_ADD_USAGE = f"""
INSERT INTO attribution_usagehour (organization_id, hour, source_id, offering_id, {", ".join(USAGE_COLUMNS)})
SELECT {_KEY}, {", ".join(f"sum((said->>{place})::numeric)" for place, _ in enumerate(USAGE_COLUMNS, 3))}
  FROM attribution_batch, jsonb_array_elements(sums->'usage') AS said
 WHERE id = ANY(%(batches)s)
 GROUP BY 1, 2, 3, 4
 ORDER BY 1, 2, 3, 4
ON CONFLICT (organization_id, hour, source_id, offering_id) DO UPDATE SET
       {", ".join(f"{name} = attribution_usagehour.{name} + excluded.{name}" for name in USAGE_COLUMNS)}
"""
_ADD_LATENCY = f"""
INSERT INTO attribution_latencyhour (organization_id, hour, source_id, offering_id, measure, bucket, calls)
SELECT {_KEY}, said->>3, (said->>4)::smallint, sum((said->>5)::bigint)
  FROM attribution_batch, jsonb_array_elements(sums->'latency') AS said
 WHERE id = ANY(%(batches)s)
 GROUP BY 1, 2, 3, 4, 5, 6
HAVING sum((said->>5)::bigint) <> 0
 ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT (organization_id, hour, source_id, offering_id, measure, bucket) DO UPDATE SET
       calls = attribution_latencyhour.calls + excluded.calls
"""


def add_batches(organization_id: int) -> int:
    """Add every waiting batch of an organization to its rollups; returns how many there were.

    Safe to run twice and beside itself: a second one finds the lock taken and leaves the work to the first.
    """
    added = 0
    while claimed := _add_some(organization_id):
        added += claimed
    return added


def organizations_waiting() -> list[int]:
    """Organizations with batches that are not in the rollups."""
    waiting = Batch.objects.filter(added_at=None).order_by("organization_id")
    return list(waiting.values_list("organization_id", flat=True).distinct())


def _add_some(organization_id: int) -> int:
    with transaction.atomic():
        if not _locked(organization_id):
            return 0
        batches = list(
            Batch.objects.filter(organization_id=organization_id, added_at=None)
            .order_by("id")
            .defer("sums")  # Postgres alone reads them
            .select_for_update(skip_locked=True)[:_BATCHES_AT_ONCE]
        )
        if not batches:
            return 0
        first = min(batch.first_started_at for batch in batches)
        last = max(batch.last_started_at for batch in batches)
        ids = [batch.pk for batch in batches]
        with connection.cursor() as cursor:
            cursor.execute(_ADD_USAGE, {"batches": ids})
            cursor.execute(_ADD_LATENCY, {"batches": ids})
        added_at = timezone.now()
        Batch.objects.filter(pk__in=ids).update(added_at=added_at, sums=None)
        count_lag(ids, added_at)
        transaction.on_commit(lambda: _tell(organization_id, first, last))
    return len(batches)


def _locked(organization_id: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(hashtext('rollups'), %s)", [organization_id]
        )
        return bool(cursor.fetchone()[0])


def _tell(organization_id: int, first: datetime, last: datetime) -> None:
    usage_added.send(
        sender=Batch,
        organization_id=organization_id,
        first_hour=first.replace(minute=0, second=0, microsecond=0),
        last_hour=last.replace(minute=0, second=0, microsecond=0),
    )
