from __future__ import annotations

import re
from decimal import Decimal
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from collectors.observation import Provenance, Usage
from costwatch.accounts.models import Membership, Organization, User
from costwatch.attribution.ingest import take
from costwatch.attribution.models import CapacityHour
from costwatch.attribution.rollups import add_batches
from costwatch.budgets.models import Budget
from costwatch.domain.periods import Period, month_of
from costwatch.pricing import cost
from costwatch.pricing.rates import refresh
from costwatch.web.templatetags.units import money_text
from tests.factories import (
    MembershipFactory,
    OrganizationFactory,
    TeamFactory,
    body,
    ingest_key,
    observation,
)
from tests.web.conftest import client_of

PAGES = ("overview", "calls", "budgets", "budget-create", "recommendations", "settings")


class Inline(HTMLParser):
    """Collects what a strict policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        is_data = names.get("type") == "application/json"
        if tag == "style" or (tag == "script" and "src" not in names and not is_data):
            self.found.append(tag)
        self.found += [
            f"{tag} {name}" for name in names if name == "style" or name.startswith("on")
        ]


def test_no_page_has_inline_script_or_style_and_each_forbids_it(
    furnished: Organization, owner_client: Client
) -> None:
    team = furnished.teams.get(slug="agents")
    for url in [*(reverse(name) for name in PAGES), reverse("team", args=[team.pk])]:
        answer = owner_client.get(url)
        assert answer.status_code == 200, url
        policy = answer["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "style-src 'self'" in policy
        assert "unsafe" not in policy
        parser = Inline()
        parser.feed(answer.content.decode())
        assert parser.found == [], url


def test_the_login_page_has_the_same_policy(client: Client, db: None) -> None:
    answer = client.get(reverse("login"))
    assert "script-src 'self'" in answer["Content-Security-Policy"]
    parser = Inline()
    parser.feed(answer.content.decode())
    assert parser.found == []


def test_an_e_mail_address_and_a_password_open_the_overview(client: Client, owner: User) -> None:
    asked = {"username": owner.email, "password": "correct horse battery staple"}
    answer = client.post(reverse("login"), asked, follow=True)
    assert answer.redirect_chain[-1][0] == reverse("overview")
    wrong = Client().post(reverse("login"), {**asked, "password": "guess"})
    assert "correct email" in wrong.content.decode().lower()


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("\u00a0", " ").split())


def test_the_overview_shows_what_the_rollups_say(
    furnished: Organization, owner_client: Client
) -> None:
    shown = text_of(owner_client.get("/").content.decode())
    month = cost.costs(furnished, _this_month(furnished))[0]
    assert money_text(month.cost) in shown
    assert f"{month.unpriced_calls} of {month.calls} calls have no price" in shown
    assert "Unattributed" in shown
    for team in ("Chat assistant", "Summaries", "Agents", "Product", "Platform"):
        assert team in shown
    assert "ranker-7b in-house unknown" in shown, "a model without a price costs an unknown amount"


def _this_month(organization: Organization) -> Period:
    return month_of(timezone.now(), organization.time_zone)


def test_what_the_teams_cost_adds_up_to_the_whole(
    furnished: Organization, owner_client: Client
) -> None:
    context = owner_client.get("/").context
    top = [line for line in context["teams"] if line.depth == 0]
    assert sum(line.use.cost for line in top) == context["used"].cost
    for name in ("Product", "Platform"):
        [department] = [line for line in top if line.label == name]
        i = context["teams"].index(department)
        below = []
        for line in context["teams"][i + 1 :]:
            if line.depth == 0:
                break
            below.append(line.use.cost)
        assert department.use.cost == sum(below)


def test_a_department_is_as_fast_as_all_its_teams_together(
    furnished: Organization, owner_client: Client
) -> None:
    product = furnished.teams.get(slug="product")
    for url in ("/", reverse("team", args=[product.pk])):
        context = owner_client.get(url).context
        lines = context.get("below") or context["teams"]
        [shown] = [line for line in lines if line.label == "Product"]
        first = shown.latency["time_to_first_token"]
        parts = [
            line.latency["time_to_first_token"]
            for line in lines
            if line.label in {"Chat assistant", "Summaries", "Search"}
        ]
        assert first.calls == sum(part.calls for part in parts) > 0
        assert min(p.p50_ns for p in parts) <= first.p50_ns <= max(p.p50_ns for p in parts)


def test_nobody_says_that_there_is_no_price_before_it_was_looked_up(
    organization: Organization, owner_client: Client
) -> None:
    take(ingest_key(organization), body(observation(at=timezone.now())))
    add_batches(organization.pk)
    text = owner_client.get("/").content.decode()
    assert "being looked up" in text
    assert "no price" not in text
    assert "Forecast unknown no cost is known yet" in text_of(text)
    refresh(organization.pk)
    text = owner_client.get("/").content.decode()
    assert "being looked up" not in text
    assert "1 of 1 calls have no price" in text


def test_sums_of_what_nobody_reported_are_not_shown_as_zero(
    organization: Organization, owner_client: Client
) -> None:
    team = TeamFactory(organization=organization, name="Search")
    silent = observation(
        at=timezone.now(), team="search", usage=Usage(), provenance=Provenance.ABSENT
    )
    page = reverse("team", args=[team.pk])
    key = ingest_key(organization)
    take(key, body(silent))
    add_batches(organization.pk)
    shown = text_of(owner_client.get(page).content.decode())
    assert "Input unknown tokens none reported from a cache" in shown
    take(key, body(observation(at=timezone.now(), team="search")))
    add_batches(organization.pk)
    shown = text_of(owner_client.get(page).content.decode())
    assert "Input 100 tokens none reported from a cache" in shown
    assert "0 %" not in shown.split("Models", 1)[1]


def test_the_pieces_of_the_capacity_bar_fill_it(
    furnished: Organization, owner_client: Client
) -> None:
    [device] = owner_client.get("/").context["capacity"]
    assert CapacityHour.objects.filter(organization=furnished).exists()
    row = device.row
    assert row.attributed_ns + row.unattributed_ns + row.idle_ns == row.wall_ns
    assert device.attributed + device.unattributed + device.idle == pytest.approx(1)


def test_a_refresh_brings_the_middle_of_the_page_alone(
    furnished: Organization, owner_client: Client
) -> None:
    part = owner_client.get("/", {"part": "live"}).content.decode()
    assert "Chat assistant" in part
    assert "<html" not in part
    assert 'id="figure-trend"' in part


def test_an_empty_organization_is_told_the_variables_to_set(owner_client: Client) -> None:
    for page in ("overview", "calls"):
        text = owner_client.get(reverse(page)).content.decode()
        for name in (
            "OTEL_EXPORTER_OTLP_ENDPOINT=http://testserver:4318",
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_RESOURCE_ATTRIBUTES",
        ):
            assert name in text, page


def test_a_month_to_come_is_explained(furnished: Organization, owner_client: Client) -> None:
    answer = owner_client.get("/", {"month": "2026-12"})
    assert answer.status_code == 400
    assert "has not begun" in answer.content.decode()


def test_a_month_without_calls_says_so(furnished: Organization, owner_client: Client) -> None:
    answer = owner_client.get("/", {"month": "2020-01"})
    assert "Nothing arrived in January 2020" in answer.content.decode()


def test_where_no_call_reports_its_first_token_it_is_unknown(
    organization: Organization, owner_client: Client
) -> None:
    team = TeamFactory(organization=organization, name="Search")
    take(ingest_key(organization), body(observation(at=timezone.now(), team="search")))
    add_batches(organization.pk)
    for url in ("/", reverse("team", args=[team.pk])):
        shown = text_of(owner_client.get(url).content.decode())
        assert "Time to first token unknown no call reported it" in shown


def test_a_team_page_holds_what_is_below_it(furnished: Organization, owner_client: Client) -> None:
    product = furnished.teams.get(slug="product")
    Budget.objects.create(
        organization=furnished, team=product, name="Ours", amount=Decimal(9), currency="USD"
    )
    answer = owner_client.get(reverse("team", args=[product.pk]))
    shown = text_of(answer.content.decode())
    for word in ("Summaries", "contracts", "claude-sonnet-4-5", "Ours", "cost centre 4100"):
        assert word in shown
    assert "Agents" not in shown
    below = [line for line in answer.context["below"] if line.depth == 1]
    assert sum(line.use.cost for line in below) == answer.context["used"].cost


def test_a_person_of_two_organizations_chooses_one(owner: User, organization: Organization) -> None:
    second = OrganizationFactory(name="Zebra")
    MembershipFactory(user=owner, organization=second, role=Membership.Role.MEMBER)
    third = OrganizationFactory(name="Not theirs")
    client = client_of(owner)
    choose = reverse("choose-organization")
    assert client.get("/").context["scope"].organization == organization
    client.post(choose, {"organization": second.pk})
    assert client.get("/").context["scope"].organization == second
    assert client.post(choose, {"organization": third.pk}).status_code == 404
    assert client.get("/").context["scope"].organization == second


def test_times_are_in_the_time_zone_of_the_organization(
    furnished: Organization, owner_client: Client
) -> None:
    furnished.time_zone = "Asia/Kolkata"
    furnished.save()
    [first, *_] = owner_client.get(reverse("calls")).context["rows"]
    page = owner_client.get(reverse("call", args=[first.call.call_id])).content.decode()
    local = first.call.started_at.astimezone(ZoneInfo("Asia/Kolkata"))
    assert f"{local:%H:%M:%S}" in page
