"""What sends, how much, and who pays for it by which rule; and what nobody pays for, with what it has in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.attribution import queries
from costwatch.attribution.models import SOURCE_TAGS, Source, SourceTeam
from costwatch.domain.periods import Period
from costwatch.pricing.sources import paid_use
from costwatch.reports.sums import Sum, sum_of


@dataclass(frozen=True, slots=True)
class SourceUse:
    """What a source used of a period at one team's cost; where the team changed, the source is there for each."""

    source_id: int
    team_id: int | None  # None: unattributed
    team: str | None
    sum: Sum


@dataclass(frozen=True, slots=True)
class ExplainedUse:
    """The same with what the source is, and why that team pays."""

    source: Source
    team_id: int | None
    team: str | None
    sum: Sum
    payer: SourceTeam | None
    last_hour: datetime | None  # of use in the period, whoever paid

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

    unattributed   only what nobody pays for, beside what team_ids pay if there are any.
    search         a part of any tag or of the key's name, in any case.
    """
    rows = paid_use(organization, period, team_ids=team_ids, unattributed=unattributed)
    found = _said_by(organization, search) if search.strip() else None
    names = dict(Team.objects.filter(organization=organization).values_list("pk", "name"))
    used = [
        SourceUse(row.source_id, row.team_id, names.get(row.team_id or 0), sum_of([row]))
        for row in rows
        if found is None or row.source_id in found
    ]
    return sorted(used, key=lambda one: (-one.sum.cost, -one.sum.calls, one.source_id))


def _said_by(organization: Organization, search: str) -> set[int]:
    """Ids of the sources of which a tag, or the key's name, says this."""
    wanted = Q(key__name__icontains=search.strip())
    for name in SOURCE_TAGS:
        wanted |= Q(**{f"{name}__icontains": search.strip()})
    sources = Source.objects.filter(wanted, organization=organization)
    return set(sources.values_list("pk", flat=True))


def explained(
    organization: Organization, period: Period, used: Sequence[SourceUse]
) -> list[ExplainedUse]:
    """For as many as are shown."""
    ids = {one.source_id for one in used}
    sources = _sources(organization, ids)
    why = queries.payers_in(organization, period, ids)
    last = queries.last_used(organization, period, ids)
    return [
        ExplainedUse(
            sources[one.source_id],
            one.team_id,
            one.team,
            one.sum,
            why.get((one.source_id, one.team_id)),
            last.get(one.source_id),
        )
        for one in used
    ]


def _sources(organization: Organization, ids: Iterable[int]) -> dict[int, Source]:
    found = Source.objects.filter(organization=organization, pk__in=list(ids))
    return found.select_related("key").in_bulk()


def unpaid(organization: Organization, period: Period) -> list[Unpaid]:
    """What nobody pays for, the dearest first, put together as one rule each would fit it."""
    used = sources_used(organization, period, unattributed=True)
    sources = _sources(organization, {one.source_id for one in used})
    groups: dict[tuple[str, str, int | None], list[SourceUse]] = defaultdict(list)
    for one in used:
        source = sources[one.source_id]
        service, tag = source.service_name, source.team_tag
        groups[service, tag, None if service or tag else source.key_id].append(one)
    found = [
        Unpaid(
            service,
            tag,
            sources[together[0].source_id].key if key_id is not None else None,
            tuple(sources[one.source_id] for one in together),
            sum_of([one.sum for one in together]),
        )
        for (service, tag, key_id), together in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.sum.cost, -one.sum.calls))
