from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.rules import MOST_RULES
from costwatch.pricing.cost import Dimension, costs
from tests.api.conftest import Reader
from tests.factories import TeamFactory, ingest_key
from tests.web.test_pages import _this_month

PATH = "assignment-rules"


def paid_by(organization: Organization) -> dict[str, tuple[int, Decimal]]:
    rows = costs(organization, _this_month(organization), group_by=(Dimension.TEAM,))
    return {row.label[Dimension.TEAM]: (row.calls, row.cost) for row in rows}


def test_a_preview_moves_nothing_and_saving_moves_just_what_it_said(
    furnished: Organization, finance: Reader, django_capture_on_commit_callbacks: Any
) -> None:
    asked = {"team": "search", "service_name": "SHOP", "feature": "support*"}
    before = paid_by(furnished)
    status, preview = finance.send("post", f"{PATH}?preview=true", asked)
    assert status == 200
    [moved] = preview["moved"]
    assert (moved["from_team"], moved["to_team"]) == ("Chat assistant", "Search")
    assert moved["sum"] == preview["total"] == preview["months"][0]["sum"]
    assert paid_by(furnished) == before
    assert not AssignmentRule.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="assignment").exists()

    with django_capture_on_commit_callbacks(execute=True):
        status, made = finance.send("post", PATH, asked)
    assert status == 201
    after = paid_by(furnished)
    calls, cost = moved["sum"]["calls"], Decimal(moved["sum"]["cost"])
    assert calls > 0
    assert cost > 0
    for team, sign in (("Chat assistant", -1), ("Search", 1)):
        assert after[team][0] == before[team][0] + sign * calls
        assert after[team][1] == before[team][1] + sign * cost

    path = f"{PATH}/{made['id']}"
    _, back = finance.send("delete", f"{path}?preview=true")
    assert back["moved"] == [
        {
            **moved,
            "from_team": "Search",
            "to_team": "Chat assistant",
            "from_team_id": moved["to_team_id"],
            "to_team_id": moved["from_team_id"],
        }
    ]
    with django_capture_on_commit_callbacks(execute=True):
        assert finance.send("delete", path) == (204, None)
    assert paid_by(furnished) == before


def test_a_change_is_previewed_from_what_the_rule_does_now(
    furnished: Organization, finance: Reader, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        _, made = finance.send("post", PATH, {"team": "search", "feature": "*"})
    path = f"{PATH}/{made['id']}"
    _, preview = finance.send("patch", f"{path}?preview=true", {"team": "agents"})
    assert {(one["from_team"], one["to_team"]) for one in preview["moved"]} == {
        ("Search", "Agents")
    }
    assert finance.get(path)["team"] == "search", "nothing was changed"
    _, later = finance.send("patch", f"{path}?preview=true", {"valid_from": "2026-11-20T00:00:00Z"})
    assert 0 < later["total"]["calls"] < preview["total"]["calls"], "the day before goes back"


def test_each_change_of_a_rule_is_recorded_with_who_and_what(
    furnished: Organization, finance: Reader
) -> None:
    _, made = finance.send("post", PATH, {"team": "search", "service_name": "x-*", "priority": 5})
    finance.send("patch", f"{PATH}/{made['id']}", {"priority": 7})
    finance.send("delete", f"{PATH}/{made['id']}")
    events = AuditEvent.objects.filter(action__startswith="assignment").order_by("pk")
    before = {"team": "search", "service_name": "x-*", "priority": 5}
    after = {**before, "priority": 7}
    assert [(event.action, event.details) for event in events] == [
        ("assignment_rule.created", before),
        ("assignment_rule.changed", {"before": before, "after": after}),
        ("assignment_rule.deleted", after),
    ]
    assert all(event.actor is not None for event in events)


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "team", "required"),
        ({"team": "elsewhere"}, "team", "elsewhere"),
        ({"team": "search", "priority": -1}, "priority", "greater than or equal to 0"),
        ({"team": "search", "priority": 10**9}, "priority", "less than or equal to 1000000"),
        ({"team": "search", "feature": "x" * 256}, "feature", "255"),
        ({"team": "search", "valid_from": "2026-11-20T09:30Z"}, "valid_from", "09:00"),
        ({"team": "search", "valid_from": "1999-01-01T00:00Z"}, "valid_from", "from 2000 to 2200"),
        (
            {
                "team": "search",
                "valid_from": "2026-11-20T09:00Z",
                "valid_until": "2026-11-20T09:00Z",
            },
            "valid_until",
            "is not after valid_from",
        ),
    ],
)
def test_what_can_not_be_a_rule_is_refused_by_field(
    organization: Organization, finance: Reader, body: dict[str, Any], field: str, said: str
) -> None:
    TeamFactory(organization=organization, name="Search")
    TeamFactory(name="elsewhere")
    status, answer = finance.send("post", PATH, body)
    assert status == 400
    assert said in str(answer[field])
    assert not AssignmentRule.objects.exists()


def test_a_rule_takes_no_key_of_somebody_else(organization: Organization, finance: Reader) -> None:
    team = TeamFactory(organization=organization, name="Search")
    theirs = ingest_key(TeamFactory().organization)
    status, answer = finance.send("post", PATH, {"team": team.slug, "key": theirs.pk})
    assert (status, list(answer)) == (400, ["key"])


def test_an_hour_without_a_zone_is_one_of_the_organizations(
    organization: Organization, finance: Reader
) -> None:
    organization.time_zone = "Asia/Kolkata"  # half an hour beside UTC's hours
    organization.save()
    TeamFactory(organization=organization, name="Search")
    status, answer = finance.send(
        "post", PATH, {"team": "search", "valid_from": "2026-11-20T09:00"}
    )
    assert status == 400
    assert "such as 2026-11-20 08:30" in answer["valid_from"][0]
    status, _ = finance.send("post", PATH, {"team": "search", "valid_from": "2026-11-20T08:30"})
    assert status == 201
    found = AssignmentRule.objects.get().valid_from
    assert found is not None
    assert found.isoformat() == "2026-11-20T03:00:00+00:00"


def test_a_preview_that_is_neither_true_nor_false_saves_nothing(
    organization: Organization, finance: Reader
) -> None:
    TeamFactory(organization=organization, name="Search")
    status, answer = finance.send("post", f"{PATH}?preview=yes", {"team": "search"})
    assert (status, list(answer)) == (400, ["preview"])
    assert not AssignmentRule.objects.exists()


def test_there_are_only_so_many_rules(organization: Organization, finance: Reader) -> None:
    team = TeamFactory(organization=organization, name="Search")
    AssignmentRule.objects.bulk_create(
        AssignmentRule(organization=organization, team=team) for _ in range(MOST_RULES)
    )
    for preview in ("", "?preview=true"):
        status, answer = finance.send("post", f"{PATH}{preview}", {"team": "search"})
        assert (status, "delete one" in str(answer)) == (400, True)
    assert finance.send("patch", f"{PATH}/{AssignmentRule.objects.all()[0].pk}", {})[0] == 200
