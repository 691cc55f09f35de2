"""What sends, how much, and who pays for it by which rule; and what nobody pays for, with what it has in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import queries
from costwatch.attribution.models import Source, SourceTeam
from costwatch.domain.periods import Period
from costwatch.pricing.cost import CostRow, Dimension, Filters, costs
from costwatch.reports.sums import Sum, sum_of

_SEARCHED = ("service_name", "environment", "team_tag", "feature", "customer")


@dataclass(frozen=True, slots=True)
class SourceUse:
    """What a source used of a period at one team's cost; where the team changed, the source is there for each."""

    source: Source
    team_id: int | None  # None: unattributed
    team: str | None
    sum: Sum
    payer: SourceTeam | None = None  # why; filled by explained()
    last_hour: datetime | None = None  # of use in the period, whoever paid

    @property
    def reason(self) -> str:
        """team tag, key's team, no rule matches; or a rule with its priority."""
        if self.payer is None:
            return ""
        return f"rule {self.payer.rule.priority}" if self.payer.rule else self.payer.reason


@dataclass(frozen=True, slots=True)
class Unpaid:
    """Sources that nobody pays for and that one rule would fit: of one service and team tag, or of a key."""

    service_name: str
    team_tag: str
    key: IngestKey | None  # where neither is said
    sources: tuple[Source, ...]  # the dearest first
    sum: Sum


def sources_used(
    organization: Organization,
    period: Period,
    *,
    unattributed: bool = False,
    team_ids: frozenset[int] | None = None,
    search: str = "",
) -> list[SourceUse]:
    """The sources with use in a period, the dearest first.

    unattributed   only what nobody pays for.
    search         a part of any tag, in any case.
    """
    filters = Filters(team_ids=team_ids, unattributed=unattributed or None)
    rows = costs(organization, period, group_by=(Dimension.SOURCE, Dimension.TEAM), filters=filters)
    known = Source.objects.filter(organization=organization).select_related("key").in_bulk()
    used = [_use(known[int(row.key[Dimension.SOURCE] or 0)], row) for row in rows]
    wanted = search.strip().lower()
    found = [one for one in used if not wanted or _says(one.source, wanted)]
    return sorted(found, key=lambda one: (-one.sum.cost, -one.sum.calls, one.source.pk))


def explained(
    organization: Organization, period: Period, used: Sequence[SourceUse]
) -> list[SourceUse]:
    """The same with why, and with the last hour of use: for as many as are shown."""
    why = queries.payers_in(organization, period, [one.source.pk for one in used])
    last = queries.last_used(organization, period)
    return [
        SourceUse(
            one.source,
            one.team_id,
            one.team,
            one.sum,
            why.get((one.source.pk, one.team_id)),
            last.get(one.source.pk),
        )
        for one in used
    ]


def unpaid(organization: Organization, period: Period) -> list[Unpaid]:
    """What nobody pays for, the dearest first, put together as one rule each would fit it."""
    groups: dict[tuple[str, str, int | None], list[SourceUse]] = defaultdict(list)
    for one in sources_used(organization, period, unattributed=True):
        service, tag = one.source.service_name, one.source.team_tag
        groups[service, tag, None if service or tag else one.source.key_id].append(one)
    found = [
        Unpaid(
            service,
            tag,
            together[0].source.key if key_id is not None else None,
            tuple(one.source for one in together),
            sum_of([one.sum for one in together]),
        )
        for (service, tag, key_id), together in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.sum.cost, -one.sum.calls))


def _use(source: Source, row: CostRow) -> SourceUse:
    team_id = row.key[Dimension.TEAM]
    paid = isinstance(team_id, int)
    return SourceUse(
        source,
        team_id if isinstance(team_id, int) else None,
        row.label[Dimension.TEAM] if paid else None,
        sum_of([row]),
    )


def _says(source: Source, wanted: str) -> bool:
    said = [getattr(source, name) for name in _SEARCHED]
    return any(wanted in text.lower() for text in (*said, str(source.key)))
