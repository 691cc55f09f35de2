"""What no call used of one's own devices, on statements."""

from __future__ import annotations

from decimal import Decimal

import pytest

from costwatch.accounts.models import Organization, Team
from costwatch.domain.idle import Policy
from costwatch.domain.periods import month_of
from costwatch.domain.pricing import NS_PER_HOUR
from costwatch.pricing.pools import set_policy
from costwatch.reports.adjustments import pending
from costwatch.reports.chargeback import chargeback, frozen
from costwatch.reports.exports import focus
from costwatch.reports.lines import Line
from tests.factories import TeamFactory
from tests.pricing.capacity import told
from tests.pricing.usage import device_price, offering, source, used
from tests.reports.closing import OCTOBER, closed


@pytest.fixture
def team(organization: Organization) -> Team:
    """It used a quarter of a device's hour, which costs 4; of the rest a quarter was busy for nobody."""
    team = TeamFactory(organization=organization)
    device_price(organization, "H100", "4")
    own = offering(organization, "", "llama", device_type="H100")
    used(source(organization, team), own, OCTOBER, device_ns=NS_PER_HOUR // 4)
    told(
        organization,
        OCTOBER,
        attributed_ns=NS_PER_HOUR // 4,
        unattributed_ns=NS_PER_HOUR // 4,
    )
    return team


def said(lines: list[Line]) -> list[tuple[str, str, int | None, Decimal]]:
    return [(line.kind, line.model, line.team_id, line.cost) for line in lines]


def test_a_statement_has_use_and_what_no_call_used_once_each(
    organization: Organization, team: Team
) -> None:
    report = frozen(closed(organization, "2026-10"))
    assert said(list(report.lines)) == [
        ("usage", "llama", team.pk, Decimal("1.00")),
        ("capacity", "pool default: busy for nobody", None, Decimal("1.00")),
        ("capacity", "pool default: idle", None, Decimal("2.00")),
    ]
    assert report.total == Decimal("4.00")
    assert not pending(organization, "9999-12")


def test_a_policy_changed_after_the_closing_is_an_adjustment_from_one_to_the_other(
    organization: Organization, team: Team
) -> None:
    closing = closed(organization, "2026-10")
    set_policy(organization, None, Policy.PROPORTIONAL, None, {})
    found = pending(organization, "9999-12")
    assert [(line.team_id, line.exact_cost, line.cause, line.used_in) for line in found] == [
        (team.pk, Decimal(1), "rule", "2026-10"),
        (team.pk, Decimal(2), "rule", "2026-10"),
        (None, Decimal(-1), "rule", "2026-10"),
        (None, Decimal(-2), "rule", "2026-10"),
    ]
    assert frozen(closing).total == Decimal("4.00")


def test_a_month_in_which_devices_only_waited_has_a_bill(organization: Organization) -> None:
    device_price(organization, "H100", "4")
    told(organization, OCTOBER)
    report = frozen(closed(organization, "2026-10"))
    assert report.total == report.unattributed == Decimal("4.00")


def test_an_export_says_which_pool_waited(organization: Organization, team: Team) -> None:
    month = month_of(OCTOBER, organization.time_zone)
    text = b"".join(
        one if isinstance(one, bytes) else one.encode()
        for one in focus.chunks(chargeback(organization, month))
    )
    assert b"H100/pool default: idle device ns" in text
