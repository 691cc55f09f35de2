"""What a change of assignment rules would move, in calls and money, before it is made.

Of a closed month what moves becomes adjustments in the next one; everywhere else the pages show it right after the change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.queries import used_period
from costwatch.attribution.rules import (
    Direction,
    changes,
    moved,
    rules_of,
    with_saved,
    without,
)
from costwatch.pricing.sources import MovedUse, moved_use
from costwatch.reports.adjustments import in_force
from costwatch.reports.sums import Sum, sum_of


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
    is_closed: bool


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
    used = used_period(organization)
    rows = moved_use(organization, used, difference.changes) if used else []
    return Preview(
        matching_sources=difference.matching,
        moved_sources=len({change.source_id for change in difference.changes}),
        moved=_by_hands(organization, rows),
        months=_by_month(organization, rows),
        total=sum_of(rows),
        currency=organization.currency,
    )


def _by_hands(organization: Organization, rows: Iterable[MovedUse]) -> tuple[Moved, ...]:
    names = dict(Team.objects.filter(organization=organization).values_list("pk", "name"))
    by_hands: dict[tuple[int | None, int | None], list[MovedUse]] = defaultdict(list)
    for row in rows:
        by_hands[row.from_team_id, row.to_team_id].append(row)
    lines = [
        Moved(was, names.get(was or 0), would, names.get(would or 0), sum_of(together))
        for (was, would), together in by_hands.items()
    ]
    return tuple(sorted(lines, key=lambda line: (-line.sum.cost, -line.sum.calls)))


def _by_month(organization: Organization, rows: Iterable[MovedUse]) -> tuple[MovedMonth, ...]:
    zone = ZoneInfo(organization.time_zone)
    by_month: dict[str, list[MovedUse]] = defaultdict(list)
    for row in rows:
        by_month[f"{row.month.astimezone(zone):%Y-%m}"].append(row)
    closed = set(in_force(organization).values_list("month__name", flat=True))
    return tuple(
        MovedMonth(name, sum_of(together), name in closed)
        for name, together in sorted(by_month.items())
    )
