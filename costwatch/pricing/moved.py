"""What changes hands costs: the use of single sources in single hours, at the very prices that costs() uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.attribution.rules import Change
from costwatch.domain.periods import Period
from costwatch.pricing.metered import metered

# Months are those of the organization's time zone. The changes of a source do not overlap, so no hour counts twice.
_MOVED = """
SELECT change.was, change.would, date_trunc('month', metered.hour, %(time_zone)s),
       sum(metered.calls), sum(metered.unknown_usage_calls),
       coalesce(sum(metered.calls) FILTER (WHERE metered.unpriced), 0), sum(metered.cost)
  FROM unnest(%(sources)s::bigint[], %(starts)s::timestamptz[], %(ends)s::timestamptz[],
              %(was)s::bigint[], %(would)s::bigint[]) AS change (source_id, start, until, was, would)
  JOIN metered ON metered.source_id = change.source_id
       AND (change.start IS NULL OR change.start <= metered.hour)
       AND (change.until IS NULL OR change.until > metered.hour)
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class MovedUse:
    """What one team would take over from another in a month; ids, None: unattributed. Fields as in CostRow."""

    from_team_id: int | None
    to_team_id: int | None
    month: datetime
    calls: int
    unknown_usage_calls: int
    unpriced_calls: int
    cost: Decimal


def moved_use(
    organization: Organization, period: Period, changes: Sequence[Change]
) -> list[MovedUse]:
    """What these changes move of what was used in a period, by hands and month, in the organization's currency."""
    if not changes:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            metered() + _MOVED,
            {
                "organization": organization.pk,
                "start": period.start,
                "end": period.end,
                "currency": organization.currency,
                "time_zone": organization.time_zone,
                "sources": [change.source_id for change in changes],
                "starts": [change.start for change in changes],
                "ends": [change.end for change in changes],
                "was": [change.from_team_id for change in changes],
                "would": [change.to_team_id for change in changes],
            },
        )
        return [
            MovedUse(was, would, month, int(calls), int(unknown), int(unpriced), cost)
            for was, would, month, calls, unknown, unpriced, cost in cursor
        ]
