"""The prices page: what has none gets one in two clicks, and nothing is saved unseen."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.test import Client

from costwatch.accounts.models import Membership, Organization
from costwatch.pricing.models import Price
from tests.factories import NOON, MembershipFactory, TeamFactory
from tests.web.conftest import client_of

RANKER = {
    "provider": "in-house",
    "model": "ranker-7b",
    "meter": "input_tokens",
    "service_tier": "",
}


@pytest.fixture
def finance_client(organization: Organization) -> Client:
    return client_of(
        MembershipFactory(organization=organization, role=Membership.Role.FINANCE).user
    )


def text(client: Client, path: str, status: int = 200, **asked: str) -> str:
    answer = client.get(path, asked)
    assert answer.status_code == status
    return answer.content.decode()


def test_what_has_no_price_gets_one_in_two_clicks(
    furnished: Organization, finance_client: Client
) -> None:
    page = text(finance_client, "/prices/")
    assert page.index("Without a price") < page.index("ranker-7b") < page.index("With a price")
    assert "gpt-4o-2024-08-06" in page
    shown = text(finance_client, "/prices/set/", **RANKER, amount="2")
    assert "Search" in shown
    assert not Price.objects.filter(model="ranker-7b").exists(), "nothing is saved unseen"
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    saved = finance_client.post("/prices/set/", {**RANKER, "amount": "2", "previewed": digest})
    assert saved.status_code == 302
    price = Price.objects.get(model="ranker-7b")
    assert (price.unit_price, price.unit_label, price.source) == (
        2,
        "1,000,000 tokens",
        "Prices page",
    )
    assert "in-house/ranker-7b input_tokens: 2 USD per 1,000,000 tokens" in text(
        finance_client, "/prices/"
    )


def test_a_price_that_was_changed_after_its_preview_is_shown_again(
    furnished: Organization, finance_client: Client
) -> None:
    shown = text(finance_client, "/prices/set/", **RANKER, amount="2")
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    again = finance_client.post("/prices/set/", {**RANKER, "amount": "3", "previewed": digest})
    assert again.status_code == 200
    assert digest not in again.content.decode()
    assert not Price.objects.filter(model="ranker-7b").exists()


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"amount": "-1"}, "greater than or equal to 0"),
        ({"amount": "1", "meter": ""}, "Name either"),
        ({"amount": "1", "device_type": "H100"}, "Name either"),
        ({"amount": "1", "valid_from": "2026-11-20T09:30"}, "whole hour"),
        ({"amount": "1", "valid_from": "0009-01-01"}, "expected a year"),
        ({"amount": "1", "valid_from": "2026-11-20", "valid_until": "2026-11-19"}, "after the first"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_price_is_said_and_not_saved(
    organization: Organization, finance_client: Client, said: dict[str, str], complaint: str
) -> None:
    answer = finance_client.post("/prices/set/", {**RANKER, **said})
    assert answer.status_code == 400
    assert complaint in answer.content.decode()
    assert not Price.objects.exists()


def test_members_see_prices_and_no_way_to_set_them(
    furnished: Organization, member_client: Client
) -> None:
    page = text(member_client, "/prices/")
    assert "ranker-7b" in page
    assert "/prices/set/" not in page
    text(member_client, "/prices/set/", status=403)


def test_a_contracted_price_is_changed_in_the_hours_in_which_it_holds(
    furnished: Organization, finance_client: Client
) -> None:
    Price.objects.filter(book__organization=furnished).exclude(device_type="").update(
        valid_from=NOON.replace(minute=0) - timedelta(days=30)
    )
    page = text(finance_client, "/prices/")
    began = f"{NOON.replace(minute=0) - timedelta(days=30):%Y-%m-%dT%H:%M}"
    assert f'name="valid_from" value="{began}"' in page


def test_a_teams_cost_is_taken_apart_into_quantity_and_price(
    furnished: Organization, member_client: Client
) -> None:
    team = furnished.teams.get(slug="summaries")
    shown = text(member_client, f"/teams/{team.pk}/")
    assert f"/prices/?team={team.pk}" in shown
    page = text(member_client, "/prices/", team=str(team.pk))
    assert "What Summaries pays for" in page
    assert "claude-sonnet-4-5" in page
    assert "ranker-7b" not in page
    calls = html.unescape(re.findall(r'href="(/calls/\?[^"]*)"', page)[0])
    assert "Summaries" in text(member_client, calls)
    nobody = text(member_client, "/prices/", team="unattributed")
    assert "gpt-4o-2024-08-06" in nobody
    assert "claude-sonnet-4-5" not in nobody


def test_a_team_of_somebody_else_is_no_team(furnished: Organization, member_client: Client) -> None:
    foreign = TeamFactory(name="Elsewhere")
    for team in (str(foreign.pk), "x", "9" * 40):
        text(member_client, "/prices/", status=404, team=team)


def test_capacity_says_what_a_request_costs_and_when_an_api_is_cheaper(
    furnished: Organization, member_client: Client
) -> None:
    page = text(member_client, "/capacity/")
    assert page.index("What a request costs") < page.index("Llama-3.1-8B-Instruct")
    assert "Breaks even at" not in page
    compared = text(member_client, "/capacity/", against="openai/gpt-4o-mini")
    assert "Breaks even at" in compared
    assert "Expected provider/model" in text(member_client, "/capacity/", against="gpt")
