"""What each key sent, by what became of it, and how late it was."""

from collections.abc import Collection, Mapping
from datetime import datetime

from django.db import connection
from django.utils import timezone

from costwatch.accounts.models import IngestKey

_ADD = """
INSERT INTO attribution_ingesthour (organization_id, hour, key_id, outcome, items)
SELECT %(organization_id)s, date_trunc('hour', %(now)s::timestamptz, 'UTC'), %(key_id)s, outcome, items
  FROM unnest(%(outcomes)s::text[], %(items)s::bigint[]) AS said (outcome, items)
ON CONFLICT (organization_id, hour, key_id, outcome)
DO UPDATE SET items = attribution_ingesthour.items + excluded.items
"""
_ADD_ARRIVAL = """
INSERT INTO attribution_laghour AS lag (organization_id, hour, key_id, bodies, arrival_ms, longest_arrival_ms,
       added_bodies, adding_ms, longest_adding_ms)
VALUES (%(organization_id)s, date_trunc('hour', %(received_at)s::timestamptz, 'UTC'), %(key_id)s, 1, %(ms)s, %(ms)s,
       0, 0, 0)
ON CONFLICT (organization_id, hour, key_id) DO UPDATE SET
       bodies = lag.bodies + 1,
       arrival_ms = lag.arrival_ms + excluded.arrival_ms,
       longest_arrival_ms = greatest(lag.longest_arrival_ms, excluded.longest_arrival_ms)
"""
_ADD_ADDING = """
INSERT INTO attribution_laghour AS lag (organization_id, hour, key_id, bodies, arrival_ms, longest_arrival_ms,
       added_bodies, adding_ms, longest_adding_ms)
SELECT organization_id, date_trunc('hour', received_at, 'UTC'), key_id, 0, 0, 0, count(*), sum(ms), max(ms)
  FROM attribution_batch
 CROSS JOIN LATERAL (
       SELECT greatest(0, extract(epoch FROM %(added_at)s::timestamptz - received_at) * 1000)::bigint
       ) AS waited (ms)
 WHERE id = ANY(%(batches)s)
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
ON CONFLICT (organization_id, hour, key_id) DO UPDATE SET
       added_bodies = lag.added_bodies + excluded.added_bodies,
       adding_ms = lag.adding_ms + excluded.adding_ms,
       longest_adding_ms = greatest(lag.longest_adding_ms, excluded.longest_adding_ms)
"""


def count_outcomes(key: IngestKey, outcomes: Mapping[str, int]) -> None:
    """Add to the hour of arrival."""
    if not outcomes:
        return
    said = sorted(outcomes.items())  # one order for all writers, or two would wait for each other
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD,
            {
                "organization_id": key.organization_id,
                "now": timezone.now(),
                "key_id": key.pk,
                "outcomes": [outcome[:255] for outcome, _ in said],
                "items": [items for _, items in said],
            },
        )


def count_arrival(key: IngestKey, received_at: datetime, ended_unix_ns: int | None) -> None:
    """Add how long the first of a body's new calls to end had waited when it was received; None: it has none."""
    if ended_unix_ns is None:
        return
    received_ms = int(received_at.timestamp() * 1000)
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD_ARRIVAL,
            {
                "organization_id": key.organization_id,
                "received_at": received_at,
                "key_id": key.pk,
                "ms": max(0, received_ms - ended_unix_ns // 1_000_000),
            },
        )


def count_adding(batch_ids: Collection[int], added_at: datetime) -> None:
    """Add how long these batches had waited when they were added to the rollups."""
    with connection.cursor() as cursor:
        cursor.execute(_ADD_ADDING, {"batches": list(batch_ids), "added_at": added_at})
