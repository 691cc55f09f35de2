"""Assignment rules as people and programs change them, and which sources a change would give to another team.

rules_of     an organization's, in the order in which they are asked
with_saved, without, moved     the same after a change that is not made yet
changes      which sources would change hands by it, and in which hours
reorder      write an order
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal
from zoneinfo import ZoneInfo

from django.db import transaction

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.assignment import (
    PATTERNS,
    Payer,
    Rules,
    payers,
    reassign,
    sources_of,
    teams_by_tag,
)
from costwatch.attribution.models import AssignmentRule
from costwatch.domain.periods import hour_of

MOST_RULES = 1000
MOST_PRIORITY = 1_000_000
_STEP = 10  # between priorities that we give, so that a person finds one in between

Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Change:
    """Another team would pay for a source in these hours. None: unattributed; no beginning, no end."""

    source_id: int
    start: datetime | None
    end: datetime | None
    from_team_id: int | None
    to_team_id: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change of rules would do to the sources."""

    matching: int  # sources that the rule's patterns fit, whoever pays for them
    changes: tuple[Change, ...]


def rules_of(organization: Organization) -> list[AssignmentRule]:
    """The first that matches decides."""
    rules = AssignmentRule.objects.filter(organization=organization)
    return list(rules.select_related("team", "key").order_by("priority", "pk"))


def with_saved(rules: Sequence[AssignmentRule], rule: AssignmentRule) -> list[AssignmentRule]:
    """The rules in order once this one is saved, whether it is new or another version of one of them."""
    return sorted([*without(rules, rule), rule], key=_order)


def without(rules: Sequence[AssignmentRule], rule: AssignmentRule) -> list[AssignmentRule]:
    return [one for one in rules if one.pk != rule.pk]


def moved(
    rules: Sequence[AssignmentRule], rule: AssignmentRule, direction: Direction
) -> list[AssignmentRule]:
    """The rules with this one a place earlier or later; as they are where it is the first or the last."""
    ordered = list(rules)
    at = [one.pk for one in ordered].index(rule.pk)
    to = max(0, min(len(ordered) - 1, at + (-1 if direction == "up" else 1)))
    ordered.insert(to, ordered.pop(at))
    return ordered


@transaction.atomic
def reorder(organization: Organization, ordered: Sequence[AssignmentRule]) -> None:
    """Give priorities anew so that the rules are asked in this order; who pays follows once it is committed."""
    for place, rule in enumerate(ordered, start=1):
        rule.priority = place * _STEP
    AssignmentRule.objects.bulk_update(ordered, ["priority"])
    # Written at once, they send no signal each: one is enough for all.
    transaction.on_commit(partial(reassign, organization.pk))


def changes(
    organization: Organization,
    after: Sequence[AssignmentRule],
    touched: Sequence[AssignmentRule],
) -> Difference:
    """What would change hands if these were the rules.

    after     all rules, in order; they need not be saved.
    touched   the rule as it is, if it is, and last as it would be: no source that neither fits can change hands.
    """
    concerned, last = Rules(touched), Rules(touched[-1:])
    rules, rules_after = Rules(rules_of(organization)), Rules(after)
    named = teams_by_tag(Team.objects.filter(organization=organization))
    matching, found = 0, list[Change]()
    for source in sources_of(organization.pk):
        matching += bool(last.matching(source))
        if concerned.matching(source):
            before = payers(source, rules, named)
            found += _changes_of(source.pk, before, payers(source, rules_after, named))
    return Difference(matching, tuple(found))


def _changes_of(
    source_id: int, before: Sequence[Payer], after: Sequence[Payer]
) -> Iterator[Change]:
    edges = sorted({p.valid_from for p in (*before, *after) if p.valid_from is not None})
    starts: list[datetime | None] = [None, *edges]
    ends: list[datetime | None] = [*edges, None]
    for start, end in zip(starts, ends, strict=True):
        was, would = _team_at(before, start), _team_at(after, start)
        if was != would:
            yield Change(source_id, start, end, was, would)


def _team_at(periods: Sequence[Payer], start: datetime | None) -> int | None:
    begun = [
        period
        for period in periods
        if period.valid_from is None or (start is not None and period.valid_from <= start)
    ]
    return begun[-1].team_id


def _order(rule: AssignmentRule) -> tuple[int, bool, int]:
    return rule.priority, rule.pk is None, rule.pk or 0  # a new one comes after its equals


def check_hour(moment: datetime, time_zone: str) -> None:
    """Raises ValueError for a moment that is no edge of an hour of UTC: what was used is known by these hours only."""
    whole = hour_of(moment)
    if moment != whole:
        zone = ZoneInfo(time_zone)
        raise ValueError(
            f"{moment.astimezone(zone):%Y-%m-%d %H:%M} ({time_zone}) is no whole hour of UTC; "
            f"expected one, such as {whole.astimezone(zone):%Y-%m-%d %H:%M}"
        )


def recorded(rule: AssignmentRule) -> dict[str, Any]:
    """For the audit log: plain JSON, without what the rule leaves open."""
    said: dict[str, Any] = {"team": rule.team.slug, "priority": rule.priority}
    said |= {name: getattr(rule, name) for name in PATTERNS}
    said["key"] = str(rule.key) if rule.key else ""
    for edge in ("valid_from", "valid_until"):
        moment = getattr(rule, edge)
        said[edge] = moment.isoformat() if moment else ""
    return {name: value for name, value in said.items() if value != ""}
