"""A preview is a promise: after the change, costs are what it said."""

from __future__ import annotations

import random
from collections import Counter
from copy import copy
from datetime import timedelta
from decimal import Decimal

import pytest
import time_machine

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.assignment import reassign
from costwatch.attribution.ingest import take
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.queries import used_period
from costwatch.attribution.rules import moved, reorder, rules_of
from costwatch.pricing.cost import Dimension, costs
from costwatch.reports.preview import (
    Preview,
    preview_of_deleting,
    preview_of_moving,
    preview_of_saving,
)
from tests.factories import NOON, TeamFactory, body, ingest_key, observation
from tests.web.scenery import furnish

Paid = dict[int | None, tuple[int, Decimal]]


def paid(organization: Organization) -> Paid:
    period = used_period(organization)
    assert period is not None
    rows = costs(organization, period, group_by=(Dimension.TEAM,))
    return {_id(row.key[Dimension.TEAM]): (row.calls, row.cost) for row in rows}


def _id(key: str | int | None) -> int | None:
    return None if key is None else int(key)


def as_promised(before: Paid, preview: Preview) -> Paid:
    calls: Counter[int | None] = Counter({team: n for team, (n, _) in before.items()})
    money: dict[int | None, Decimal] = {team: amount for team, (_, amount) in before.items()}
    for one in preview.moved:
        for team, sign in ((one.from_team_id, -1), (one.to_team_id, 1)):
            calls[team] += sign * one.sum.calls
            money[team] = money.get(team, Decimal(0)) + sign * one.sum.cost
    return {team: (n, money[team]) for team, n in calls.items() if n}


def some_rule(organization: Organization, chance: random.Random) -> AssignmentRule:
    edges = sorted(chance.sample(range(-48, 1), 2))
    start, end = (NOON.replace(minute=0) + timedelta(hours=edge) for edge in edges)
    return AssignmentRule(
        organization=organization,
        team=chance.choice(list(organization.teams.all())),
        priority=chance.randrange(5),
        service_name=chance.choice(["", "shop", "sh*", "gate*"]),
        team_tag=chance.choice(["", "", "*a*", "search"]),
        feature=chance.choice(["", "", "*ing", "support*"]),
        valid_from=chance.choice([start, None]),
        valid_until=chance.choice([end, None]),
    )


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_what_the_preview_said_after_any_change_of_any_rules(
    organization: Organization, seed: int
) -> None:
    chance = random.Random(seed)
    with time_machine.travel(NOON):
        furnish(organization, NOON, days=2)
    for _ in range(6):
        some_rule(organization, chance).save()
        reassign(organization.pk)
    seen_moves = 0
    for kind in ("create", "change", "move", "delete", "create", "change"):
        before = paid(organization)
        rule = chance.choice(rules_of(organization))
        if kind == "create":
            rule = some_rule(organization, chance)
            preview = preview_of_saving(organization, rule)
            rule.save()
        elif kind == "change":
            other = some_rule(organization, chance)
            other.pk = rule.pk
            preview = preview_of_saving(organization, copy(other))
            other.save()
        elif kind == "move":
            preview = preview_of_moving(organization, rule, "up")
            reorder(organization, moved(rules_of(organization), rule, "up"))
        else:
            preview = preview_of_deleting(organization, rule)
            rule.delete()
        reassign(organization.pk)
        assert paid(organization) == as_promised(before, preview), kind
        assert preview.total.calls == sum(month.sum.calls for month in preview.months)
        seen_moves += bool(preview.moved)
    assert seen_moves


def test_a_preview_of_an_organization_without_use_says_that_nothing_moves(
    organization: Organization,
) -> None:
    team: Team = TeamFactory(organization=organization)
    rule = AssignmentRule(organization=organization, team=team)
    preview = preview_of_saving(organization, rule)
    assert (preview.matching_sources, preview.moved, preview.total.calls) == (0, (), 0)


def test_a_source_of_another_organization_is_in_no_preview(organization: Organization) -> None:
    theirs: Team = TeamFactory()
    with time_machine.travel(NOON):
        take(ingest_key(theirs.organization), body(observation()))
    rule = AssignmentRule(organization=organization, team=TeamFactory(organization=organization))
    assert preview_of_saving(organization, rule).matching_sources == 0
