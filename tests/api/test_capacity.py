"""Usage and fully loaded cost of one's own devices, side by side."""

from __future__ import annotations

from decimal import Decimal

from costwatch.accounts.models import Organization, User
from costwatch.domain.idle import Policy
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.pricing.pools import set_policy
from tests.api.conftest import Reader, reader_for
from tests.factories import TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import device_price, offering, source, used

DAY = {"start": "2026-11-20", "end": "2026-11-21"}


def ran(organization: Organization) -> None:
    team = TeamFactory(organization=organization, name="Search")
    device_price(organization, "H100", "4")
    own = offering(organization, "", "llama", device_type="H100")
    used(source(organization, team), own, device_ns=NS_PER_HOUR // 4)
    told(organization, attributed_ns=NS_PER_HOUR // 4, unattributed_ns=NS_PER_HOUR // 4)


def test_usage_and_fully_loaded_cost_sum_to_the_pools_bill(
    organization: Organization, reader: Reader
) -> None:
    ran(organization)
    set_policy(organization, None, Policy.PROPORTIONAL, None, {})
    page = reader.get("capacity", **DAY)
    [pool], [charge] = page["pools"], page["charges"]
    assert (charge["team"], charge["load"]["usage_cost"]) == ("Search", "1")
    assert charge["load"]["idle_cost"] == "2"
    assert charge["load"]["unattributed_busy_cost"] == "1"
    assert charge["load"]["loaded_cost"] == pool["load"]["loaded_cost"] == "4"
    assert pool["load"]["device_ns"] == sum(row["wall_ns"] for row in page["results"])
    assert (pool["pool"], pool["load"]["method"], page["currency"]) == (
        "default",
        "measured",
        "USD",
    )


def test_what_is_carried_by_nobody_s_team_is_there_too(
    organization: Organization, reader: Reader
) -> None:
    ran(organization)
    charges = reader.get("capacity", **DAY)["charges"]
    assert [(row["team_id"] is None, row["load"]["loaded_cost"]) for row in charges] == [
        (False, "1"),
        (True, "3"),
    ]
    assert sum(Decimal(row["load"]["loaded_cost"]) for row in charges) == 4


def test_a_stranger_sees_nothing_of_it(organization: Organization, stranger: User) -> None:
    ran(organization)
    elsewhere = stranger.memberships.get().organization
    page = reader_for(stranger, elsewhere).get("capacity", **DAY)
    assert page["pools"] == page["charges"] == page["results"] == []
