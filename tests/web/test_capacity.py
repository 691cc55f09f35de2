"""The capacity pages: usage beside fully loaded cost, and nothing is moved unseen."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from costwatch.accounts.models import AuditEvent, Membership, Organization, Team, User
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.pricing.models import IdlePolicy, PoolRule, Price
from tests.factories import MembershipFactory, TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import HOUR, device_price, offering, source, used
from tests.web.conftest import client_of

MONTH = f"?month={HOUR:%Y-%m}"


@pytest.fixture
def finance_client(organization: Organization) -> Client:
    return client_of(
        MembershipFactory(organization=organization, role=Membership.Role.FINANCE).user
    )


@pytest.fixture
def team(organization: Organization) -> Team:
    """It used a quarter of an hour that costs 4."""
    team = TeamFactory(organization=organization, name="Secret searchers")
    device_price(organization, "H100", "4")
    own = offering(organization, "", "llama", device_type="H100")
    used(source(organization, team), own, device_ns=NS_PER_HOUR // 4)
    told(organization, attributed_ns=NS_PER_HOUR // 4)
    return team


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def test_a_member_sees_usage_and_fully_loaded_cost_and_may_change_nothing(
    member_client: Client, team: Team
) -> None:
    page = text(member_client, f"/capacity/{MONTH}")
    assert "Secret searchers measured" in page
    assert "All pools $4.00" in page
    assert "Set who carries the rest" not in page
    for path in ("/capacity/policy/", "/capacity/pool/", "/capacity/price/"):
        assert member_client.get(path).status_code == 403
        assert member_client.post(path, {"policy": "peak", "name": "x"}).status_code == 403


def test_a_stranger_sees_none_of_it(stranger: User, team: Team) -> None:
    client = client_of(stranger)
    assert "Secret searchers" not in text(client, f"/capacity/{MONTH}")
    assert "Secret searchers" not in text(client, "/capacity/policy/")


def test_a_policy_is_saved_after_what_it_moves_was_shown(
    finance_client: Client, organization: Organization, team: Team
) -> None:
    asked = {"pool": "", "policy": "proportional", "valid_from": ""}
    path = f"/capacity/policy/{MONTH}"
    shown = finance_client.post(path, asked).content.decode()
    assert not IdlePolicy.objects.exists(), "nothing is saved unseen"
    assert list(re.findall(r'<td class="num">(.*?)</td>', shown)) == [
        "$1.00",
        "$4.00",
        "$3.00",
        "$0.00",
    ]
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    other = finance_client.post(path, {**asked, "policy": "peak", "previewed": digest})
    assert other.status_code == 200, "what was changed since is shown again"
    assert finance_client.post(path, {**asked, "previewed": digest}).status_code == 302
    assert IdlePolicy.objects.get().policy == "proportional"
    assert AuditEvent.objects.get(action="idle_policy.set").details["policy"] == "proportional"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"policy": "reserved"}, "0 reservations"),
        ({"policy": "peak", "valid_from": "2026-11-23T09:30"}, "expected a whole hour"),
        ({"policy": "free"}, "not one of the available choices"),
    ],
)
def test_a_policy_that_cannot_hold_is_answered_with_why(
    finance_client: Client, team: Team, asked: dict[str, str], said: str
) -> None:
    answer = finance_client.post("/capacity/policy/", asked)
    assert answer.status_code == 400
    assert said in answer.content.decode()


def test_a_pool_takes_its_devices_out_of_the_default_one(
    finance_client: Client, organization: Organization, team: Team
) -> None:
    asked = {"name": "research", "device_type": "h1*", "device_id": "", "valid_from": ""}
    assert finance_client.post("/capacity/pool/", asked).status_code == 302
    assert "research measured H100" in text(finance_client, f"/capacity/{MONTH}")
    assert PoolRule.objects.get().organization == organization
    empty = finance_client.post("/capacity/pool/", {"name": "all"})
    assert empty.status_code == 400
    assert "every device fits" in empty.content.decode()


BOUGHT = {
    "device_type": "H100",
    "commitment": "bought",
    "purchase_price": "30000",
    "residual_value": "3000",
    "lifetime_months": "48",
    "watts": "700",
    "kwh_price": "0.20",
}


def test_a_bought_devices_price_shows_its_formula_before_it_is_saved(
    finance_client: Client, team: Team
) -> None:
    shown = finance_client.post("/capacity/price/", BOUGHT).content.decode()
    assert "(30000 − 3000) USD / (48 × 730 h) + 700 W / 1,000 × 0.20 USD/kWh" in shown
    assert "$0.91" in shown
    assert not Price.objects.filter(source__startswith="bought").exists()
    [digest] = re.findall(r'name="previewed" value="(\w+)"', shown)
    answer = finance_client.post("/capacity/price/", {**BOUGHT, "previewed": digest})
    assert answer.status_code == 302
    price = Price.objects.get(source__startswith="bought")
    assert (price.unit_label, price.approved_by is not None) == ("35,040 device-hours", True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"watts": ""}, "Needed for this"),
        ({"residual_value": "30001"}, "expected from 0 to the purchase price"),
        ({"commitment": "reserved"}, "Needed for this"),
        ({"valid_from": "9999-12-31T23:00"}, "9999"),
    ],
)
def test_terms_that_make_no_price_are_answered_with_why(
    finance_client: Client, organization: Organization, changed: dict[str, str], said: str
) -> None:
    answer = finance_client.post("/capacity/price/", {**BOUGHT, **changed})
    assert answer.status_code == 400
    assert said in answer.content.decode()
