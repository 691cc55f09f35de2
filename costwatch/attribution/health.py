"""What each key sent, by what became of it."""

from collections.abc import Mapping

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
