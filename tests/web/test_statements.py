"""Pages of months and statements: what they say, and what moving a month takes."""

from __future__ import annotations

import pytest
import time_machine
from django.test import Client

from costwatch.accounts.models import Membership, Organization, User
from costwatch.pricing.models import Meter
from costwatch.reports.models import Month
from tests.factories import MembershipFactory, TeamFactory
from tests.pricing.usage import offering, source, token_price, used
from tests.reports.closing import IN_NOVEMBER, OCTOBER, closed
from tests.web.conftest import client_of


@pytest.fixture
def october(organization: Organization) -> Organization:
    team = TeamFactory(organization=organization, name="Search", cost_centre="CC-1")
    token_price(organization, Meter.OUTPUT_TOKENS, "2.50")
    used(
        source(organization, team, "ranking"),
        offering(organization),
        OCTOBER,
        output_tokens=4_000_000,
    )
    return organization


@pytest.fixture
def finance(october: Organization) -> Client:
    return client_of(MembershipFactory(organization=october, role=Membership.Role.FINANCE).user)


def text(client: Client, path: str, status: int = 200) -> str:
    with time_machine.travel(IN_NOVEMBER):
        answer = client.get(path)
    assert answer.status_code == status
    return " ".join(answer.content.decode().split())


def test_what_closing_will_do_is_said_before_it_is_done(finance: Client) -> None:
    assert "statements/move/?month=2026-10&amp;to=review" in text(
        finance, "/statements/month/?month=2026-10"
    )
    with time_machine.travel(IN_NOVEMBER):
        answer = finance.post(
            "/statements/move/", {"month": "2026-10", "to": "review"}, follow=True
        )
    assert "October 2026 is review: look at it, then close it." in answer.content.decode()
    asked = text(finance, "/statements/move/?month=2026-10&to=closed")
    assert "1 statement over $10.00 will be frozen, $0.00 of it unattributed" in asked
    assert Month.objects.get().state == "review", "asking changes nothing"
    with time_machine.travel(IN_NOVEMBER):
        finance.post("/statements/move/", {"month": "2026-10", "to": "closed"})
    assert Month.objects.get().state == "closed"
    assert "edition 1" in text(finance, "/statements/month/?month=2026-10")


def test_a_move_that_is_refused_says_why(finance: Client) -> None:
    with time_machine.travel(IN_NOVEMBER):
        answer = finance.post("/statements/move/", {"month": "2026-10", "to": "closed"})
    assert answer.status_code == 409
    assert "2026-10 is open; expected it to be review, to close it" in answer.content.decode()


def test_opening_a_month_again_needs_a_reason(october: Organization, finance: Client) -> None:
    closed(october, "2026-10")
    with time_machine.travel(IN_NOVEMBER):
        answer = finance.post("/statements/move/", {"month": "2026-10", "to": "open"})
        assert "reopening it needs a reason" in answer.content.decode()
        finance.post(
            "/statements/move/", {"month": "2026-10", "to": "open", "reason": "wrong team"}
        )
    page = text(finance, "/statements/")
    assert "opened again: wrong team" in page


def test_members_read_statements_and_have_no_buttons(october: Organization, member: User) -> None:
    client = client_of(member)
    page = text(client, "/statements/month/?month=2026-10")
    assert "Search" in page
    assert "to=review" not in page
    assert client.post("/statements/move/", {"month": "2026-10", "to": "review"}).status_code == 403


def test_pending_adjustments_stand_on_the_month_that_will_hold_them(
    october: Organization, finance: Client
) -> None:
    closed(october, "2026-10")
    token_price(october, Meter.OUTPUT_TOKENS, "3")
    page = text(finance, "/statements/month/?month=2026-11")
    assert "pending: closing this month freezes them" in page
    assert "another price" in page
    assert "$2.00" in page


def test_a_statement_shows_quantity_price_and_amount(
    october: Organization, finance: Client
) -> None:
    team = october.teams.get()
    page = text(finance, f"/statements/team/?month=2026-10&team={team.pk}")
    assert "This is no statement yet" in page
    assert "cost centre CC-1" in page
    assert 'title="4,000,000"' in page
    assert "$2.50" in page
    assert "$10.00" in page


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/statements/team/?month=2026-10&team=x", 400),
        ("/statements/team/?month=2026-10&team=999999", 404),
        ("/statements/move/?month=2026-10&to=gone", 400),
        ("/statements/month/?month=2027-01", 400),
    ],
)
def test_what_is_no_statement_is_refused(finance: Client, path: str, status: int) -> None:
    text(finance, path, status)
