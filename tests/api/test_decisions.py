"""Asked before a call, by gateways with an ingest key and by people with a token."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from costwatch.accounts.models import IngestKey, Organization, User
from costwatch.budgets.models import Budget
from costwatch.budgets.reservation_models import Reservation
from tests.api.conftest import Reader
from tests.factories import OrganizationFactory, TeamFactory

PATH = "/api/v1/budget-decisions"


class Gateway:
    """Asks with an ingest key."""

    def __init__(self, organization: Organization, **said: Any) -> None:
        self.key, secret = IngestKey.issue(organization=organization, name="gateway", **said)
        self.client = Client(headers={"Authorization": f"Bearer {secret}"})

    def ask(self, path: str = "", body: object = None, **headers: str) -> tuple[int, Any]:
        answer = self.client.post(
            PATH + path, body or {}, content_type="application/json", headers=headers
        )
        return answer.status_code, answer.json()


@pytest.fixture
def gateway(organization: Organization) -> Gateway:
    return Gateway(organization)


@pytest.fixture
def budget(organization: Organization) -> Budget:
    return Budget.objects.create(
        organization=organization, name="All", amount=Decimal(10), currency="USD", deny_at=100
    )


def test_a_gateway_asks_settles_and_is_denied_when_nothing_is_left(
    gateway: Gateway, budget: Budget
) -> None:
    status, first = gateway.ask(body={"model": "gpt-4o", "estimated_cost": "6"})
    assert (status, first["decision"]) == (200, "allow")
    status, second = gateway.ask(body={"estimated_cost": "6"})
    assert (status, second["decision"], second["id"]) == (200, "deny", None)
    [judged] = second["budgets"]
    assert (judged["held"], judged["deny_above"], judged["currency"]) == ("6", "10", "USD")
    assert judged["age_seconds"] >= 0
    for _ in range(2):
        assert gateway.ask(f"/{first['id']}/settle", {"cost": "2.5"}) == (
            200,
            {"id": first["id"], "state": "settled"},
        )
    assert gateway.ask(f"/{first['id']}/settle", {"cost": "2.6"})[0] == 409
    assert gateway.ask(f"/{first['id']}/release")[0] == 409
    status, third = gateway.ask(body={"estimated_cost": "6"})
    assert third["decision"] == "allow"
    assert gateway.ask(f"/{third['id']}/release")[1]["state"] == "released"


def test_the_key_names_who_pays_where_the_question_does_not(organization: Organization) -> None:
    team = TeamFactory(organization=organization)
    Budget.objects.create(
        organization=organization, name="T", amount=1, currency="USD", deny_at=100, team=team
    )
    asked = Gateway(organization, team=team).ask(body={"estimated_cost": "2"})
    assert asked[1]["decision"] == "deny"
    assert Gateway(organization).ask(body={"estimated_cost": "2"})[1]["decision"] == "allow"
    named = Gateway(organization).ask(body={"estimated_cost": "2", "team": team.slug})
    assert named[1]["decision"] == "deny"


def test_asking_again_with_the_same_key_holds_once(gateway: Gateway, budget: Budget) -> None:
    headers = {"Idempotency-Key": "a"}
    asked = [gateway.ask(body={"estimated_cost": "6"}, **headers) for _ in range(2)]
    assert asked[0] == asked[1]
    status, answer = gateway.ask(body={"estimated_cost": "7"}, **headers)
    assert (status, answer["detail"]) == (
        409,
        "this Idempotency-Key was used for another question; use a new one for each",
    )
    assert Reservation.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"estimated_cost": 1.5}, "estimated_cost"),
        ({"estimated_cost": "-1"}, "estimated_cost"),
        ({"estimated_cost": "NaN"}, "estimated_cost"),
        ({"estimated_cost": "1" * 30}, "estimated_cost"),
        ({"team": "nobody"}, "team"),
        ({"team": "\0"}, "team"),
        ({"feature": "x" * 256}, "feature"),
        ({"source": 10**9}, "source"),
        ({"hold_seconds": 0}, "hold_seconds"),
        ({"hold_seconds": 86_401}, "hold_seconds"),
    ],
)
def test_what_is_no_question_is_refused_by_field(
    gateway: Gateway, body: dict[str, Any], field: str
) -> None:
    status, answer = gateway.ask(body=body)
    assert (status, list(answer)) == (400, [field])
    assert not Reservation.objects.exists()


def test_another_organizations_teams_budgets_and_reservations_are_not_there(
    gateway: Gateway, budget: Budget, organization: Organization
) -> None:
    theirs = OrganizationFactory()
    stranger = Gateway(theirs)
    _, mine = gateway.ask(body={"estimated_cost": "6"})
    assert stranger.ask(body={"estimated_cost": "600"})[1]["budgets"] == []
    assert stranger.ask(f"/{mine['id']}/settle", {"cost": "1"})[0] == 404
    assert stranger.ask(f"/{mine['id']}/release")[0] == 404
    team = TeamFactory(organization=organization)
    assert stranger.ask(body={"team": team.slug})[0] == 400
    assert gateway.ask(f"/{uuid4()}/release")[0] == 404


def test_keys_that_are_revoked_or_nobodys_may_not_ask(gateway: Gateway, client: Client) -> None:
    gateway.key.revoked_at = timezone.now()
    gateway.key.save()
    assert gateway.ask()[0] == 401
    assert client.post(PATH, {}, content_type="application/json").status_code == 401
    unknown = Client(headers={"Authorization": "Bearer cwk_unknown"})
    assert unknown.post(PATH, {}, content_type="application/json").status_code == 401


def test_an_ingest_key_opens_nothing_else(gateway: Gateway) -> None:
    for path in ("budgets", "costs", "calls", "prices"):
        assert gateway.client.get(f"/api/v1/{path}").status_code == 401


def test_members_may_ask_and_who_is_no_member_may_not(
    reader: Reader, organization: Organization, member: User, budget: Budget
) -> None:
    assert reader.send("post", "budget-decisions", {})[1]["decision"] == "allow"
    member.memberships.all().delete()
    assert reader.send("post", "budget-decisions", {})[0] == 403


def test_a_budget_says_what_the_next_decision_is_made_on(
    finance: Reader, gateway: Gateway, budget: Budget
) -> None:
    gateway.ask(body={"estimated_cost": "6"})
    state = finance.get(f"budgets/{budget.pk}")["state"]["enforcement"]
    assert (state["spent"], state["held"], state["deny_above"]) == ("0", "6", "10")
    status, changed = finance.send("patch", f"budgets/{budget.pk}", {"deny_at": None})
    assert (status, changed["state"]["enforcement"]) == (200, None)
    status, answer = finance.send(
        "patch", f"budgets/{budget.pk}", {"deny_at": 80, "degrade_at": 90}
    )
    assert (status, list(answer)) == (400, ["degrade_at"])
