"""Which team the time of one's own devices went to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import Organization, Team
from costwatch.domain.periods import Period
from costwatch.pricing.device_time import device_time
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.usage import HOUR, offering, source, used

MONTH = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def ran(
    organization: Organization, team: Team | None, hour: int, device_ns: int, marginal_ns: int
) -> None:
    used(
        source(organization, team),
        offering(organization, "", "llama", device_type="H100"),
        HOUR + timedelta(hours=hour),
        device_ns=device_ns,
        device_ns_marginal=marginal_ns,
        device_ns_alone=2 * device_ns,
    )


def test_who_ran_in_a_quiet_minute_pays_no_more_for_the_fixed_part(
    organization: Organization,
) -> None:
    quiet, busy = TeamFactory(organization=organization), TeamFactory(organization=organization)
    ran(organization, quiet, 0, device_ns=700, marginal_ns=100)  # alone in its steps
    ran(organization, busy, 0, device_ns=300, marginal_ns=100)  # among many
    ran(organization, busy, 1, device_ns=50, marginal_ns=10)
    found = {row.team_id: row for row in device_time(organization, MONTH)}
    assert found[quiet.pk].device_ns_hour_normalised == 500
    assert found[busy.pk].device_ns_hour_normalised == 500 + 50
    assert found[busy.pk].device_ns == 350
    assert found[busy.pk].device_ns_alone == 700


def test_what_nobody_pays_has_a_row_and_other_organizations_have_none(
    organization: Organization,
) -> None:
    ran(organization, None, 0, device_ns=5, marginal_ns=0)
    ran(OrganizationFactory(), None, 0, device_ns=7, marginal_ns=0)
    [row] = device_time(organization, MONTH)
    assert (row.team_id, row.team, row.device_ns_hour_normalised) == (None, "unattributed", 5)


_USE = st.tuples(
    st.integers(0, 2), st.integers(0, 3), st.integers(1, 10**13), st.integers(0, 10**13)
)


class Conserved(TestCase):
    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(st.lists(_USE, min_size=1, max_size=8, unique_by=lambda use: use[:2]))
    def test_no_nanosecond_of_an_hour_is_lost_or_made(
        self, uses: list[tuple[int, int, int, int]]
    ) -> None:
        organization = OrganizationFactory()
        teams = [
            TeamFactory(organization=organization),
            TeamFactory(organization=organization),
            None,
        ]
        for team, hour, device_ns, marginal_ns in uses:
            ran(organization, teams[team], hour, device_ns, min(device_ns, marginal_ns))
        rows = device_time(organization, MONTH)
        charged = sum(device_ns for _, _, device_ns, _ in uses)
        assert sum(row.device_ns for row in rows) == charged
        assert sum(row.device_ns_hour_normalised for row in rows) == charged
        assert all(row.device_ns_hour_normalised >= 0 for row in rows)
