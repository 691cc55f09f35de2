from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.rules import MOST_RULES
from costwatch.pricing.cost import Dimension, costs
from tests.factories import TeamFactory
from tests.web.test_pages import _this_month, text_of

CREATE = "sources-rule-create"


def costs_by_team(organization: Organization) -> dict[str, Decimal]:
    rows = costs(organization, _this_month(organization), group_by=(Dimension.TEAM,))
    return {row.label[Dimension.TEAM]: row.cost for row in rows}


@pytest.fixture
def asked(furnished: Organization) -> dict[str, Any]:
    return {
        "team": furnished.teams.get(slug="search").pk,
        "service_name": "shop",
        "feature": "support *",
        "priority": "10",
    }


def test_a_rule_is_saved_only_after_what_it_would_move_was_shown(
    furnished: Organization,
    owner_client: Client,
    asked: dict[str, Any],
    django_capture_on_commit_callbacks: Any,
) -> None:
    before = costs_by_team(furnished)
    shown = owner_client.post(reverse(CREATE), asked)
    assert shown.status_code == 200
    [moved] = shown.context["preview"].moved
    assert (moved.from_team, moved.to_team) == ("Chat assistant", "Search")
    assert "nothing is changed yet" in shown.content.decode()
    assert not AssignmentRule.objects.exists()

    digest = shown.context["digest"]
    changed = owner_client.post(reverse(CREATE), {**asked, "feature": "*", "previewed": digest})
    assert changed.status_code == 200, "another rule than the one that was shown is shown first"
    assert not AssignmentRule.objects.exists()

    with django_capture_on_commit_callbacks(execute=True):
        saved = owner_client.post(reverse(CREATE), {**asked, "previewed": digest})
    assert saved.status_code == 302
    after = costs_by_team(furnished)
    assert after["Search"] == before["Search"] + moved.sum.cost
    assert after["Chat assistant"] == before["Chat assistant"] - moved.sum.cost
    event = AuditEvent.objects.get(action="assignment_rule.created")
    assert event.details == {
        "team": "search",
        "priority": 10,
        "service_name": "shop",
        "feature": "support *",
    }
    page = text_of(owner_client.get(reverse("sources-rules")).content.decode())
    assert "service shop feature support *" in page
    assert str(event.actor) in page


def test_a_rule_is_changed_and_deleted_with_its_effect_shown_first(
    furnished: Organization, owner_client: Client, asked: dict[str, Any]
) -> None:
    rule = AssignmentRule.objects.create(
        organization=furnished, team=furnished.teams.get(slug="agents"), service_name="shop"
    )
    url = reverse("sources-rule-change", args=[rule.pk])
    shown = owner_client.post(url, asked)
    owner_client.post(url, {**asked, "previewed": shown.context["digest"]})
    rule.refresh_from_db()
    assert (rule.team.slug, rule.priority) == ("search", 10)
    changed = AuditEvent.objects.get(action="assignment_rule.changed").details
    assert changed["before"]["team"] == "agents"
    assert changed["after"]["team"] == "search"

    url = reverse("sources-rule-delete", args=[rule.pk])
    assert owner_client.get(url).context["preview"].moved
    assert AssignmentRule.objects.exists()
    owner_client.post(url)
    assert not AssignmentRule.objects.exists()
    assert AuditEvent.objects.filter(action="assignment_rule.deleted").exists()


def test_moving_a_rule_up_lets_it_decide_first(
    furnished: Organization, owner_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    teams = [furnished.teams.get(slug=slug) for slug in ("agents", "search")]
    with django_capture_on_commit_callbacks(execute=True):
        first, second = (
            AssignmentRule.objects.create(organization=furnished, team=team) for team in teams
        )
    assert "Search" not in costs_by_team(furnished)
    url = reverse("sources-rule-move", args=[second.pk])
    shown = owner_client.get(url, {"direction": "up"}).context["preview"]
    assert {(one.from_team, one.to_team) for one in shown.moved} == {("Agents", "Search")}
    with django_capture_on_commit_callbacks(execute=True):
        owner_client.post(url, {"direction": "up"})
    after = costs_by_team(furnished)
    assert set(after) == {"Search"}
    assert after["Search"] == shown.total.cost
    assert list(AssignmentRule.objects.values_list("pk", flat=True)) == [second.pk, first.pk]
    owner_client.post(url, {"direction": "up"})
    assert AssignmentRule.objects.first() == second, "the first one stays the first"
    assert AuditEvent.objects.filter(action="assignment_rule.moved").count() == 2


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("team", "", "Choose the team that pays."),
        ("priority", "first", "whole number"),
        ("priority", "-1", "greater than or equal to 0"),
        ("valid_from", "2026-11-20T09:30", "no whole hour of UTC; expected one, such as"),
        ("valid_from", "1066-10-14T09:00", "from 2000 to 2200"),
        ("valid_until", "2026-11-01T00:00", "not after the beginning"),
    ],
)
def test_what_can_not_be_a_rule_is_explained_beside_its_field(
    organization: Organization, owner_client: Client, field: str, value: str, said: str
) -> None:
    team = TeamFactory(organization=organization)
    good = {"team": team.pk, "priority": "1", "valid_from": "2026-11-20T09:00"}
    answer = owner_client.post(reverse(CREATE), {**good, field: value})
    assert answer.status_code == 400
    assert any(said in error for error in answer.context["form"].errors[field])
    assert "preview" not in answer.context


def test_hours_are_typed_and_shown_in_the_time_zone_of_the_organization(
    organization: Organization, owner_client: Client
) -> None:
    organization.time_zone = "Europe/Berlin"
    organization.save()
    team = TeamFactory(organization=organization)
    asked = {"team": team.pk, "priority": "1", "valid_from": "2026-07-01T00:00"}
    shown = owner_client.post(reverse(CREATE), asked)
    owner_client.post(reverse(CREATE), {**asked, "previewed": shown.context["digest"]})
    rule = AssignmentRule.objects.get()
    assert rule.valid_from is not None
    assert rule.valid_from.isoformat() == "2026-06-30T22:00:00+00:00"
    page = owner_client.get(reverse("sources-rule-change", args=[rule.pk])).content.decode()
    assert 'value="2026-07-01T00:00"' in page


def test_teams_and_keys_of_somebody_else_are_no_choice(
    furnished: Organization, owner_client: Client, stranger: Any
) -> None:
    theirs = TeamFactory(name="Foreign team")
    answer = owner_client.post(reverse(CREATE), {"team": theirs.pk, "priority": "1"})
    assert answer.status_code == 400
    assert "Foreign team" not in answer.content.decode()


def test_there_are_only_so_many_rules(organization: Organization, owner_client: Client) -> None:
    team = TeamFactory(organization=organization)
    AssignmentRule.objects.bulk_create(
        AssignmentRule(organization=organization, team=team) for _ in range(MOST_RULES)
    )
    answer = owner_client.post(reverse(CREATE), {"team": team.pk, "priority": "1"})
    assert answer.status_code == 400
    assert "which is the most; delete one" in answer.content.decode()
