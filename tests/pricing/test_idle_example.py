"""The example of docs/cost-of-idle-gpus.md comes out as the page says."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from costwatch.accounts.models import Organization
from costwatch.domain.idle import Policy
from costwatch.domain.money import rounded, total
from costwatch.domain.periods import Period
from costwatch.pricing.capacity import capacity_charges
from costwatch.pricing.pools import set_policy
from tests.factories import TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import HOUR, device_price, offering, source, used

PAGE = Path(__file__).parents[2] / "docs" / "cost-of-idle-gpus.md"
SECOND_NS = 10**9
ROWS = re.findall(
    r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE.read_text(), re.MULTILINE
)


def test_the_page_shows_every_policy() -> None:
    assert {row[0] for row in ROWS} == set(Policy)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_an_hour_costs_the_teams_what_the_page_says(
    organization: Organization, row: tuple[str, str, str, str]
) -> None:
    search, chat = (TeamFactory(organization=organization, name=n) for n in ("search", "chat"))
    device_price(organization, "H100", "4")
    own = offering(organization, "", "llama", device_type="H100")
    used(source(organization, search), own, device_ns=2700 * SECOND_NS)
    used(source(organization, chat), own, device_ns=900 * SECOND_NS)
    used(source(organization, chat), own, HOUR + timedelta(hours=5), device_ns=5400 * SECOND_NS)
    told(organization, attributed_ns=3600 * SECOND_NS)
    told(organization, unattributed_ns=360 * SECOND_NS, device_id="gpu-1")
    policy = Policy(row[0])
    reserved = {search: 25, chat: 50} if policy is Policy.RESERVED else {}
    set_policy(organization, None, policy, None, reserved)
    charges = capacity_charges(organization, Period(HOUR, HOUR + timedelta(hours=1)))
    loaded = [
        total(charge.cost for charge in charges if charge.team_id == payer)
        for payer in (search.pk, chat.pk, None)
    ]
    assert [rounded(cost) for cost in loaded] == [Decimal(text) for text in row[1:]]
    assert total(loaded) == Decimal(8)
