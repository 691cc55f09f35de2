"""What a change of assignment rules would move, in calls and money, before it is made.

No month is closed yet, so all of what was used moves; what is computed here is what the pages show after the change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.queries import used_period
from costwatch.attribution.rules import (
    Change,
    Direction,
    changes,
    moved,
    rules_of,
    with_saved,
    without,
)
from costwatch.domain.periods import Period
from costwatch.pricing.cost import CostRow, Dimension, costs
from costwatch.reports.sums import Sum, sum_of

Hands = tuple[int | None, int | None]  # ids of the team that pays and of the one that would


@dataclass(frozen=True, slots=True)
class Moved:
    """From one team to another. None: unattributed."""

    from_team_id: int | None
    from_team: str | None
    to_team_id: int | None
    to_team: str | None
    sum: Sum


@dataclass(frozen=True, slots=True)
class MovedMonth:
    month: str  # 2026-11
    sum: Sum


@dataclass(frozen=True, slots=True)
class Preview:
    """Amounts are in the organization's currency."""

    matching_sources: int  # that the rule's patterns fit, whoever pays for them
    moved_sources: int  # that change hands in any hour, past or to come
    moved: tuple[Moved, ...]  # the dearest first
    months: tuple[MovedMonth, ...]
    total: Sum
    currency: str


def preview_of_saving(organization: Organization, rule: AssignmentRule) -> Preview:
    """rule   a new one, or another version of one that is saved; it is not saved here."""
    rules = rules_of(organization)
    as_it_is = [one for one in rules if one.pk == rule.pk]
    return _preview(organization, with_saved(rules, rule), [*as_it_is, rule])


def preview_of_deleting(organization: Organization, rule: AssignmentRule) -> Preview:
    return _preview(organization, without(rules_of(organization), rule), [rule])


def preview_of_moving(
    organization: Organization, rule: AssignmentRule, direction: Direction
) -> Preview:
    return _preview(organization, moved(rules_of(organization), rule, direction), [rule])


def _preview(
    organization: Organization, after: Sequence[AssignmentRule], touched: Sequence[AssignmentRule]
) -> Preview:
    difference = changes(organization, after, touched)
    by_hands, by_month = _sums(organization, difference.changes)
    names = dict(Team.objects.filter(organization=organization).values_list("pk", "name"))
    lines = [
        Moved(was, names.get(was or 0), would, names.get(would or 0), sum_of(rows))
        for (was, would), rows in by_hands.items()
    ]
    return Preview(
        matching_sources=difference.matching,
        moved_sources=len({change.source_id for change in difference.changes}),
        moved=tuple(sorted(lines, key=lambda line: (-line.sum.cost, -line.sum.calls))),
        months=tuple(MovedMonth(name, sum_of(rows)) for name, rows in sorted(by_month.items())),
        total=sum_of([row for rows in by_hands.values() for row in rows]),
        currency=organization.currency,
    )


def _sums(
    organization: Organization, found: Sequence[Change]
) -> tuple[dict[Hands, list[CostRow]], dict[str, list[CostRow]]]:
    """What changes hands, by hands and by month."""
    by_hands: dict[Hands, list[CostRow]] = defaultdict(list)
    by_month: dict[str, list[CostRow]] = defaultdict(list)
    used = used_period(organization) if found else None
    zone = ZoneInfo(organization.time_zone)
    for period, hands in _spans(found, used) if used else ():
        for row in costs(organization, period, group_by=(Dimension.SOURCE,), interval="month"):
            source_id = row.key[Dimension.SOURCE]
            if source_id in hands and row.start is not None:
                by_hands[hands[source_id]].append(row)
                by_month[f"{row.start.astimezone(zone):%Y-%m}"].append(row)
    return by_hands, by_month


def _spans(found: Sequence[Change], used: Period) -> list[tuple[Period, Mapping[object, Hands]]]:
    """The time of use cut where the hands of any source change, without the pieces in which none does.

    The pieces do not overlap, so that all of them together read no more than the whole.
    """
    edges = {edge for change in found for edge in (change.start, change.end) if edge}
    cuts = sorted({used.start, used.end, *(edge for edge in edges if edge in used)})
    spans: list[tuple[Period, Mapping[object, Hands]]] = []
    for start, end in pairwise(cuts):
        hands = _hands_in(found, start, end)
        if spans and spans[-1][0].end == start and spans[-1][1] == hands:
            spans[-1] = (Period(spans[-1][0].start, end), hands)
        elif hands:
            spans.append((Period(start, end), hands))
    return spans


def _hands_in(found: Sequence[Change], start: datetime, end: datetime) -> Mapping[object, Hands]:
    return {
        change.source_id: (change.from_team_id, change.to_team_id)
        for change in found
        if (change.start is None or change.start <= start)
        and (change.end is None or change.end >= end)
    }
