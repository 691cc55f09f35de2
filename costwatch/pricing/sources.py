"""What sources cost, by who pays: as it is, and what a change of rules would move; at the very prices of costs().

Only what a page of sources shows is summed up: of hundreds of thousands of hours, other sums would take as long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.attribution.rules import Change
from costwatch.domain.periods import Period
from costwatch.pricing.metered import PAYER, metered

_SUMS = """
       sum(metered.calls), sum(metered.unknown_usage_calls),
       coalesce(sum(metered.calls) FILTER (WHERE metered.unpriced), 0), sum(metered.cost)
"""
_BY_SOURCE = f"""
SELECT metered.source_id, payer.team_id, {_SUMS}
  FROM metered
  {PAYER}
 WHERE %(everybody)s OR payer.team_id = ANY(%(teams)s::bigint[])
    OR (%(unattributed)s AND payer.team_id IS NULL)
 GROUP BY 1, 2
"""  # noqa: S608  only the sums above are put in
# Months are those of the organization's time zone. The changes of a source do not overlap, so no hour counts twice.
_MOVED = f"""
SELECT change.was, change.would, date_trunc('month', metered.hour, %(time_zone)s), {_SUMS}
  FROM unnest(%(sources)s::bigint[], %(starts)s::timestamptz[], %(ends)s::timestamptz[],
              %(was)s::bigint[], %(would)s::bigint[]) AS change (source_id, start, until, was, would)
  JOIN metered ON metered.source_id = change.source_id
       AND (change.start IS NULL OR change.start <= metered.hour)
       AND (change.until IS NULL OR change.until > metered.hour)
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
"""  # noqa: S608  as above


@dataclass(frozen=True, slots=True)
class PaidUse:
    """What a source used at one team's cost; None: unattributed. Fields as in CostRow."""

    source_id: int
    team_id: int | None
    calls: int
    unknown_usage_calls: int
    unpriced_calls: int
    cost: Decimal


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


def paid_use(
    organization: Organization,
    period: Period,
    *,
    team_ids: frozenset[int] | None = None,
    unattributed: bool = False,
) -> list[PaidUse]:
    """By source and who paid, in no order; where the team changed, the source is there for each.

    team_ids, unattributed   only what these teams pay, or nobody, or either; without them: everything.
    """
    hours = metered(organization, period)
    with connection.cursor() as cursor:
        cursor.execute(
            hours.query + _BY_SOURCE,
            {
                **hours.values,
                "everybody": team_ids is None and not unattributed,
                "teams": list(team_ids or ()),
                "unattributed": unattributed,
            },
        )
        return [
            PaidUse(source_id, team_id, int(calls), int(unknown), int(unpriced), cost)
            for source_id, team_id, calls, unknown, unpriced, cost in cursor
        ]


def moved_use(
    organization: Organization, period: Period, changes: Sequence[Change]
) -> list[MovedUse]:
    """What these changes move of what was used in a period, by hands and month, in the organization's currency."""
    if not changes:
        return []
    hours = metered(organization, period)
    with connection.cursor() as cursor:
        cursor.execute(
            hours.query + _MOVED,
            {
                **hours.values,
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
