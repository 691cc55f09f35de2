"""What each key sent, by what became of it, and how late it was."""

from collections.abc import Collection, Mapping
from datetime import datetime

from django.db import connection
from django.utils import timezone

from costwatch.accounts.models import IngestKey

# Outcomes that are told of spans beside another one, which counts them.
TOO_MANY_VALUES = "too many values of "
REPEATED_ID = "repeated id: with another model or other counts"
BESIDE_OTHERS = (TOO_MANY_VALUES, REPEATED_ID)  # how they begin

_ADD = """
INSERT INTO attribution_ingesthour AS hour (organization_id, hour, key_id, outcome, items, example)
SELECT %(organization_id)s, date_trunc('hour', %(now)s::timestamptz, 'UTC'), %(key_id)s, outcome, items, example
  FROM unnest(%(outcomes)s::text[], %(items)s::bigint[], %(examples)s::text[]) AS said (outcome, items, example)
ON CONFLICT (organization_id, hour, key_id, outcome)
DO UPDATE SET items = hour.items + excluded.items, example = coalesce(nullif(excluded.example, ''), hour.example)
"""
_ADD_LAG = """
INSERT INTO attribution_laghour AS lag (organization_id, hour, key_id, bodies, arrival_ms, longest_arrival_ms,
       added_bodies, adding_ms, longest_adding_ms)
SELECT organization_id, date_trunc('hour', received_at, 'UTC'), key_id,
       count(arrival_ms), coalesce(sum(arrival_ms), 0), coalesce(max(arrival_ms), 0), count(*), sum(ms), max(ms)
  FROM attribution_batch
 CROSS JOIN LATERAL (
       SELECT greatest(0, extract(epoch FROM %(added_at)s::timestamptz - received_at) * 1000)::bigint
       ) AS waited (ms)
 WHERE id = ANY(%(batches)s)
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
ON CONFLICT (organization_id, hour, key_id) DO UPDATE SET
       bodies = lag.bodies + excluded.bodies,
       arrival_ms = lag.arrival_ms + excluded.arrival_ms,
       longest_arrival_ms = greatest(lag.longest_arrival_ms, excluded.longest_arrival_ms),
       added_bodies = lag.added_bodies + excluded.added_bodies,
       adding_ms = lag.adding_ms + excluded.adding_ms,
       longest_adding_ms = greatest(lag.longest_adding_ms, excluded.longest_adding_ms)
"""


def too_many_values(name: str) -> str:
    """The outcome of what was counted as other, by the name of what had too many values."""
    return f"{TOO_MANY_VALUES}{name.replace('_', ' ')}: counted as other"


def count_outcomes(
    key: IngestKey, outcomes: Mapping[str, int], examples: Mapping[str, str] | None = None
) -> None:
    """Add to the hour of arrival.

    examples   by outcome, where one item helps to find the others; an hour keeps the latest.
    """
    if not outcomes:
        return
    shown = examples or {}
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
                "examples": [shown.get(outcome, "")[:255] for outcome, _ in said],
            },
        )


def count_lag(batch_ids: Collection[int], added_at: datetime) -> None:
    """Add how late these batches were when they arrived, and how long they waited to be added to the rollups."""
    with connection.cursor() as cursor:
        cursor.execute(_ADD_LAG, {"batches": list(batch_ids), "added_at": added_at})
