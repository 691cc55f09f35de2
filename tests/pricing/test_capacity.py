"""Each pool's bill is charged to the last digit, whoever carries what no call used."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.models import CapacityHour
from costwatch.domain import money
from costwatch.domain.device_price import Bought, Rented
from costwatch.domain.idle import Policy
from costwatch.domain.periods import Period
from costwatch.domain.pricing import NS_PER_HOUR, UnitPrice
from costwatch.pricing.capacity import CapacityCharge, Kind, capacity_charges
from costwatch.pricing.cost import total
from costwatch.pricing.device_prices import device_prices, set_device_price
from costwatch.pricing.models import Pool, PoolRule
from costwatch.pricing.pools import set_policy
from costwatch.pricing.prices import PriceRange
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import HOUR, device_price, offering, source, used

MONTH = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
QUARTER = NS_PER_HOUR // 4


def ran(
    organization: Organization,
    team: Team | None,
    device_ns: int,
    hour: datetime = HOUR,
    model: str = "llama",
) -> None:
    own = offering(organization, "", model, device_type="H100")
    used(source(organization, team), own, hour, device_ns=device_ns)


def of_kind(rows: list[CapacityCharge], kind: Kind) -> dict[int | None, Decimal]:
    return {row.team_id: row.cost for row in rows if row.kind is kind}


@pytest.fixture
def teams(organization: Organization) -> list[Team]:
    return [TeamFactory(organization=organization) for _ in range(3)]


@pytest.fixture
def used_hour(organization: Organization, teams: list[Team]) -> Organization:
    """One device at 4 a hour: the first team used a quarter of it, the second two, the rest was busy for nobody."""
    device_price(organization, "H100", "4")
    ran(organization, teams[0], QUARTER)
    ran(organization, teams[1], QUARTER // 2)
    told(organization, attributed_ns=QUARTER + QUARTER // 2, unattributed_ns=QUARTER // 2)
    return organization


def test_without_a_policy_the_platform_carries_what_no_call_used(
    used_hour: Organization, teams: list[Team]
) -> None:
    rows = capacity_charges(used_hour, MONTH)
    assert of_kind(rows, Kind.USAGE) == {teams[0].pk: Decimal(1), teams[1].pk: Decimal("0.5")}
    assert of_kind(rows, Kind.UNATTRIBUTED_BUSY) == {None: Decimal("0.5")}
    assert of_kind(rows, Kind.IDLE) == {None: Decimal(2)}
    assert {row.policy for row in rows if row.kind is Kind.IDLE} == {"platform"}


def test_by_proportion_a_team_carries_as_much_of_the_rest_as_of_the_use(
    used_hour: Organization, teams: list[Team]
) -> None:
    set_policy(used_hour, None, Policy.PROPORTIONAL, None, {})
    idle = of_kind(capacity_charges(used_hour, MONTH), Kind.IDLE)
    assert idle.keys() == {teams[0].pk, teams[1].pk}
    assert money.total(idle.values()) == 2
    assert money.rounded(idle[teams[0].pk], 6) == Decimal("1.333333")


def test_who_reserved_carries_what_it_left_and_the_rest_is_the_platforms(
    used_hour: Organization, teams: list[Team]
) -> None:
    set_policy(used_hour, None, Policy.RESERVED, None, {teams[0]: 25, teams[2]: 50})
    idle = of_kind(capacity_charges(used_hour, MONTH), Kind.IDLE)
    assert idle == {teams[2].pk: Decimal("1.6"), None: Decimal("0.4")}


def test_a_policy_holds_from_its_hour_on(used_hour: Organization, teams: list[Team]) -> None:
    ran(used_hour, teams[0], QUARTER, HOUR + timedelta(hours=1))
    told(used_hour, HOUR + timedelta(hours=1), attributed_ns=QUARTER)
    set_policy(used_hour, None, Policy.PROPORTIONAL, HOUR + timedelta(hours=1), {})
    idle = of_kind(capacity_charges(used_hour, MONTH), Kind.IDLE)
    assert idle == {None: Decimal(2), teams[0].pk: Decimal(3)}


def test_a_device_is_in_the_first_pool_that_fits_and_use_goes_where_devices_were_used(
    used_hour: Organization, teams: list[Team]
) -> None:
    training = Pool.objects.create(organization=used_hour, name="training")
    PoolRule.objects.create(
        organization=used_hour, pool=training, priority=1, device_id="train-*", valid_from=HOUR
    )
    told(used_hour, attributed_ns=0, device_id="train-7")
    told(used_hour, HOUR - timedelta(hours=1), device_id="train-7")
    rows = capacity_charges(used_hour, MONTH)
    bills: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        bills[row.pool] += row.cost
    assert bills == {"default": Decimal(8), "training": Decimal(4)}
    assert {row.pool for row in rows if row.kind is Kind.USAGE and row.cost} == {"default"}


def test_idle_time_without_a_price_is_not_free(organization: Organization) -> None:
    told(organization)
    [row] = capacity_charges(organization, MONTH)
    assert (row.kind, row.cost, row.unpriced_ns) == (Kind.IDLE, Decimal(0), NS_PER_HOUR)


def test_devices_that_nobody_watches_cost_what_calls_used_of_them(
    organization: Organization, teams: list[Team]
) -> None:
    device_price(organization, "H100", "4")
    ran(organization, teams[0], QUARTER)
    [row] = capacity_charges(organization, MONTH)
    assert (row.kind, row.cost) == (Kind.USAGE, Decimal(1))


def test_another_organizations_devices_are_not_charged(used_hour: Organization) -> None:
    assert capacity_charges(OrganizationFactory(), MONTH) == []


def test_a_device_that_was_bought_has_a_price_with_its_terms(organization: Organization) -> None:
    terms = Bought(Decimal(30_000), Decimal(3_000), 48, 700, Decimal("0.20"), "USD")
    row = set_device_price(organization, "H100", terms, PriceRange())
    assert row.unit_label == "35,040 device-hours"
    assert row.source == str(terms)
    rented = Rented(Decimal("2.5"), False, "USD")
    set_device_price(organization, "h100", rented, PriceRange(HOUR))
    held = device_prices(organization, {"H100"})["H100"]
    assert [(one.valid_until, one.value) for one in held] == [
        (HOUR, terms.unit_price),
        (None, UnitPrice(Decimal("2.5"), NS_PER_HOUR, "USD")),
    ]


@pytest.mark.parametrize(
    ("policy", "percents", "valid_from", "message"),
    [
        (Policy.RESERVED, [60, 50], None, "110 %"),
        (Policy.RESERVED, [], None, "0 reservations"),
        (Policy.PEAK, [10], None, "1 reservations"),
        (Policy.PEAK, [], HOUR + timedelta(minutes=1), "whole hour"),
    ],
)
def test_a_policy_that_cannot_hold_is_refused(
    organization: Organization,
    teams: list[Team],
    policy: Policy,
    percents: list[int],
    valid_from: datetime | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        set_policy(organization, None, policy, valid_from, dict(zip(teams, percents, strict=False)))


_NS = st.integers(0, NS_PER_HOUR)
_USE = st.tuples(st.integers(0, 2), st.integers(0, 3), _NS)
_TOLD = st.tuples(st.integers(0, 1), st.integers(0, 3), _NS, _NS)


class Conserved(TestCase):
    @settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
    @given(
        st.sampled_from(Policy),
        st.lists(_USE, max_size=8, unique_by=lambda use: use[:2]),
        st.lists(_TOLD, max_size=8, unique_by=lambda one: one[:2]),
        st.sampled_from(["3.59", "0", "0.000000000001"]),
    )
    def test_usage_and_the_rest_sum_to_the_bill_of_each_hour(
        self,
        policy: Policy,
        uses: list[tuple[int, int, int]],
        devices: list[tuple[int, int, int, int]],
        per_hour: str,
    ) -> None:
        organization = OrganizationFactory()
        teams = [TeamFactory(organization=organization) for _ in range(2)]
        price = device_price(organization, "H100", per_hour).value
        reserved = {teams[0]: 40} if policy is Policy.RESERVED else {}
        set_policy(organization, None, policy, None, reserved)
        for team, hour, ns in uses:
            ran(organization, [*teams, None][team], ns, HOUR + timedelta(hours=hour))
        for device, hour, attributed_ns, other_ns in devices:
            told(
                organization,
                HOUR + timedelta(hours=hour),
                attributed_ns=attributed_ns,
                unattributed_ns=min(other_ns, NS_PER_HOUR - attributed_ns),
                device_id=f"gpu-{device}",
            )
        beyond_ns = 0
        for hour in range(4):
            start = HOUR + timedelta(hours=hour)
            period = Period(start, start + timedelta(hours=1))
            rows = capacity_charges(organization, period)
            wall_ns = sum(
                CapacityHour.objects.filter(organization=organization, hour=start).values_list(
                    "wall_ns", flat=True
                )
            )
            usage = total(organization, period)
            rest_ns = max(0, wall_ns - usage.device_ns - beyond_ns)
            beyond_ns = max(0, usage.device_ns + beyond_ns - wall_ns)
            bill = price.cost(usage.device_ns + rest_ns).amount if rest_ns else usage.cost
            assert sum(row.device_ns for row in rows) == usage.device_ns + rest_ns
            assert money.total(row.cost for row in rows) == max(bill, usage.cost)
            assert all(row.cost >= 0 for row in rows)
            assert all(row.device_ns >= 0 for row in rows)
            assert money.total(of_kind(rows, Kind.USAGE).values()) == usage.cost
