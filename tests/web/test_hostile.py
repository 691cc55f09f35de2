"""Every page that can be opened, with every parameter that any page reads, and what nobody means to ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import Organization, User
from costwatch.attribution.ingest import take
from costwatch.attribution.models import AssignmentRule, Entry
from costwatch.attribution.rollups import add_batches
from costwatch.budgets.models import Budget
from tests.factories import NOON, TeamFactory, body, ingest_key, observation
from tests.web.conftest import client_of
from tests.web.hostile import NINES, VALUES
from tests.web.test_pages import text_of
from tests.web.test_tenants import patterns

PARAMETERS = (
    *("month", "part", "team", "model", "feature", "start", "end", "cursor", "show", "next"),
    *("page", "payer", "search", "service_name", "key", "priority", "direction"),
)
POSTED_ONLY = {"settings-revoke-key", "settings-revoke-token", "recommendation-status"}
EDGES = ("0001-01-01", "0001-01-03", "1999-12-31", "2201-01-01", "9999-12-31")


@pytest.fixture
def ids(organization: Organization) -> Iterator[dict[str, Any]]:
    """Of one row of each kind, by the names that addresses use."""
    team = TeamFactory(organization=organization, name="Search")
    budget = Budget.objects.create(
        organization=organization, team=team, name="Search", amount=1, currency="USD"
    )
    rule = AssignmentRule.objects.create(organization=organization, team=team)
    key = ingest_key(organization)
    with time_machine.travel(NOON):
        take(key, body(observation(team="search")))
        add_batches(organization.pk)
        call_id = Entry.objects.get(organization=organization).call_id
        yield {
            "team_id": team.pk,
            "budget_id": budget.pk,
            "call_id": call_id,
            "rule_id": rule.pk,
            "key_id": key.pk,
        }


def readable() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pages, by name and by the ids in their address, that answer to GET."""
    for one in patterns():
        name = str(one.name)
        if not name.startswith("api-") and name not in POSTED_ONLY:
            yield name, tuple(one.pattern.converters)


@pytest.mark.parametrize(("name", "wanted"), list(readable()))
def test_no_page_breaks_whatever_it_is_asked_with(
    owner: User, ids: dict[str, Any], name: str, wanted: tuple[str, ...]
) -> None:
    client = client_of(owner)
    client.raise_request_exception = False
    url = reverse(name, kwargs={one: ids[one] for one in wanted})
    for parameter in PARAMETERS:
        for value in VALUES:
            answer = client.get(url, {parameter: value})
            assert answer.status_code < 500, (parameter, value[:40])


RULE = (
    *("team", "service_name", "feature", "key", "priority", "valid_from", "valid_until"),
    "previewed",
)
FORMS = {
    "login": ("username", "password", "next"),
    "choose-organization": ("organization",),
    "budget-create": ("name", "team", "amount", "thresholds", "addresses", "active"),
    "settings-create-key": ("name", "team", "environment"),
    "settings-create-token": ("name",),
    "settings-content": ("stored", "days"),
    "settings-change-key": (
        *("name", "team", "environment", "requests_per_second", "max_body_bytes"),
    ),
    "sources-rule-create": RULE,
    "sources-rule-change": RULE,
    "sources-rule-move": ("direction",),
}


@pytest.mark.parametrize("name", FORMS)
def test_no_form_breaks_whatever_is_typed_into_it(
    owner: User, ids: dict[str, Any], name: str
) -> None:
    client = Client() if name == "login" else client_of(owner)
    client.raise_request_exception = False
    good = {"name": "x", "amount": "1", "thresholds": "80", "username": "a@b.org", "password": "x"}
    good |= {"team": ids["team_id"], "priority": "1"}
    [wanted] = [one.pattern.converters for one in patterns() if one.name == name]
    url = reverse(name, kwargs={one: ids[one] for one in wanted})
    for field in FORMS[name]:
        for value in VALUES:
            answer = client.post(url, {**good, field: value})
            assert answer.status_code < 500, (field, value[:40])


@pytest.mark.parametrize(
    "month", ["0001-01", "0001-02", "1999-12", "2201-01", "9999-12", "2026-13"]
)
def test_a_month_that_is_none_is_explained(owner_client: Client, month: str) -> None:
    answer = owner_client.get("/", {"month": month})
    assert answer.status_code == 400
    assert f"'{month}'" in text_of(answer.content.decode()).replace("&#x27;", "'")


def test_the_first_month_links_to_none_before_it(owner_client: Client) -> None:
    page = owner_client.get("/", {"month": "2000-01"}).content.decode()
    assert "month=2000-02" in page
    assert "month=1999-12" not in page


@pytest.mark.parametrize("edge", ["start", "end"])
@pytest.mark.parametrize("day", EDGES)
def test_a_date_out_of_reach_is_explained_beside_its_field(
    owner_client: Client, edge: str, day: str
) -> None:
    answer = owner_client.get(reverse("calls"), {edge: day})
    assert answer.status_code == 400
    [error] = answer.context["form"].errors[edge]
    assert "expected a year from 2000 to 2200" in error


def test_the_first_and_the_last_day_are_within_reach(owner_client: Client) -> None:
    for asked in ({"start": "2000-01-01", "end": "2200-12-31"}, {"end": "2000-01-01"}):
        assert owner_client.get(reverse("calls"), asked).status_code == 200


def test_a_character_that_no_text_has_is_refused_at_the_door(owner_client: Client) -> None:
    for url in (reverse("overview"), reverse("calls"), reverse("settings")):
        answer = owner_client.get(url, {"show": "a\0b"})
        assert answer.status_code == 400
        assert "NUL" in answer.content.decode()
    assert owner_client.post(reverse("budget-create"), {"name": "a\0b"}).status_code == 400


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("thresholds", NINES, "is no threshold"),
        ("thresholds", ", ".join(str(n) for n in range(1, 22)), "expected at most 20"),
        ("addresses", ", ".join(f"a{n}@example.org" for n in range(51)), "expected at most 50"),
        ("amount", NINES, "digits"),
        ("team", NINES, "valid choice"),
    ],
)
def test_a_budget_has_bounds(owner_client: Client, field: str, value: str, said: str) -> None:
    good = {"name": "x", "amount": "1", "thresholds": "80"}
    answer = owner_client.post(reverse("budget-create"), {**good, field: value})
    assert answer.status_code == 400
    [error, *_] = answer.context["form"].errors[field]
    assert said in error
    assert len(error) < 200
    assert not Budget.objects.exists()
