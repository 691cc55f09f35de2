from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.accounts.models import Organization
from costwatch.domain.periods import Period
from costwatch.domain.pricing import UnitPrice
from costwatch.domain.savings import SavingRange
from costwatch.recommendations.compute import recompute
from costwatch.recommendations.kinds import prefix_cache, response_cache
from costwatch.recommendations.models import Recommendation
from costwatch.recommendations.queries import recommendations
from costwatch.recommendations.usage import OwnUsage
from costwatch.recommendations.window import HOURS_PER_MONTH, Window
from tests.factories import OrganizationFactory
from tests.pricing.usage import HOUR, device_price, offering, source, used

NOW = HOUR + timedelta(hours=1)
A_WEEK_AGO = HOUR - timedelta(days=7)
_SECOND = 1_000_000_000


def a_week(organization: Organization, feature: str = "agent", **sums: int) -> None:
    """One hour's use now, and something a week ago, so that whole weeks were seen."""
    device_price(organization, "cpu", "3.60")
    who, what = (
        source(organization, feature=feature),
        offering(organization, "costwatch", "small", device_type="cpu"),
    )
    used(source(organization, feature="first"), what, A_WEEK_AGO, device_ns=1)
    used(who, what, HOUR, **sums)


def found(organization: Organization, kind: str) -> list[Recommendation]:
    recompute(organization.pk, NOW)
    return list(recommendations(organization).filter(kind=kind))


# An agent whose 9,000 of 10,000 prompt tokens had been computed before, beside 1,000 output tokens. If a prompt token
# took all of an output token's work, the repeated ones would be 9/11 of it.
AGENT = {
    "calls": 10,
    "input_tokens": 10_000,
    "output_tokens": 1_000,
    "prefix_repeated_tokens": 9_000,
    "device_ns": 7_150_000 * _SECOND // 100,
    "device_ns_marginal": 71_500 * _SECOND // 2,
}


def test_a_repeated_prefix_is_found_with_what_a_cache_would_save(
    organization: Organization,
) -> None:
    a_week(organization, **AGENT)
    [one] = found(organization, "prefix_cache")
    window_hours = 7 * 24 + 1
    month = HOURS_PER_MONTH / window_hours
    # 3.60 per hour is 0.001 per second; the marginal time was 35,750 s.
    most = Decimal("35.750") * 9 / 11 * month
    least = Decimal("35.750") * Decimal("0.25") * 9_000 / 3_500 * Decimal("0.8") * month
    assert one.saving_high == pytest.approx(most, rel=Decimal("1e-9"))
    assert one.saving_low == pytest.approx(least, rel=Decimal("1e-9"))
    assert (one.layer, one.verdict, one.quality_state) == ("serving", "pays", "exact")
    assert one.offering is not None
    assert one.offering.model == "small"
    assert one.evidence["prefix_repeated_share"] == "0.9000"
    assert [s["prefix_repeated_tokens"] for s in one.evidence["sources"]] == [9_000]


def test_prompts_that_begin_differently_get_no_advice(organization: Organization) -> None:
    a_week(organization, **AGENT | {"prefix_repeated_tokens": 400})
    assert found(organization, "prefix_cache") == []


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.fractions(0, 1),
    st.integers(1, 10**15),
    st.fractions(0, 1),
)
def test_no_cache_saves_more_than_the_calls_own_work(
    prompt: int, output: int, repeated: object, device_ns: int, marginal: object
) -> None:
    usage = OwnUsage(
        source=None,  # type: ignore[arg-type]
        offering=None,  # type: ignore[arg-type]
        price=UnitPrice(Decimal(1), 1, "USD"),
        calls=1,
        input_tokens=prompt,
        output_tokens=output,
        device_ns=device_ns,
        device_ns_marginal=int(device_ns * marginal),  # type: ignore[operator]
        prefix_repeated_tokens=int(prompt * repeated),  # type: ignore[operator]
        repeated_device_ns=int(device_ns * repeated),  # type: ignore[operator]
    )
    prefix, response = prefix_cache.saved(usage), response_cache.saved(usage)
    assert 0 <= prefix.low <= prefix.high <= usage.device_ns_marginal
    assert 0 <= response.low <= response.high <= device_ns


def test_repeated_requests_are_found_with_what_their_answers_cost(
    organization: Organization,
) -> None:
    a_week(
        organization,
        "triage",
        calls=100,
        device_ns=10_000 * _SECOND,
        device_ns_marginal=5_000 * _SECOND,
        repeated_device_ns=4_000 * _SECOND,
    )
    [one] = found(organization, "response_cache")
    month = HOURS_PER_MONTH / (7 * 24 + 1)
    assert one.saving_high == pytest.approx(Decimal(4) * month, rel=Decimal("1e-9"))
    assert one.saving_low == pytest.approx(Decimal("1.6") * month, rel=Decimal("1e-9"))
    assert one.source is not None
    assert one.source.feature == "triage"
    assert (one.layer, one.verdict) == ("system", "pays")


def test_requests_that_hardly_repeat_get_no_advice(organization: Organization) -> None:
    a_week(organization, device_ns=10_000, repeated_device_ns=100)
    assert found(organization, "response_cache") == []


def test_below_the_volume_where_it_pays_the_advice_is_not_yet(organization: Organization) -> None:
    a_week(
        organization,
        calls=100,
        device_ns=1_000 * _SECOND,
        device_ns_marginal=1_000 * _SECOND,
        repeated_device_ns=100 * _SECOND,
    )
    [one] = found(organization, "response_cache")
    assert one.verdict == "not_yet"
    assert one.saving_high < 5
    monthly = one.evidence["calls_per_month"]
    # At this many calls of the same kind it would save the 5 from which on it pays.
    needed = one.evidence["pays_from_calls_per_month"]
    assert one.saving_high * needed / monthly == pytest.approx(Decimal(5), rel=Decimal("0.01"))


def test_a_device_without_a_price_gets_no_advice(organization: Organization) -> None:
    used(
        source(organization),
        offering(organization, "costwatch", "small", device_type="gpu"),
        A_WEEK_AGO,
        **AGENT | {"repeated_device_ns": 10**12},
    )
    assert recompute(organization.pk, NOW) == 0


def test_tokens_of_a_provider_are_not_ones_own_device_time(organization: Organization) -> None:
    used(source(organization), offering(organization), A_WEEK_AGO, **AGENT)
    assert recompute(organization.pk, NOW) == 0


def test_the_usage_of_another_organization_is_no_evidence(organization: Organization) -> None:
    a_week(OrganizationFactory(), **AGENT)
    assert recompute(organization.pk, NOW) == 0
    assert list(recommendations(organization)) == []


def test_computing_twice_keeps_one_row_and_what_was_dismissed(organization: Organization) -> None:
    a_week(organization, **AGENT)
    [one] = found(organization, "prefix_cache")
    [same] = found(organization, "prefix_cache")
    assert same.pk == one.pk
    Recommendation.objects.update(status="dismissed")
    assert found(organization, "prefix_cache") == []
    assert [row.pk for row in recommendations(organization, dismissed=True)] == [one.pk]


def test_advice_that_no_longer_holds_goes(organization: Organization) -> None:
    a_week(organization, **AGENT)
    assert found(organization, "prefix_cache")
    a_week(organization, **AGENT | {"prefix_repeated_tokens": 0})
    assert found(organization, "prefix_cache") == []


def test_without_usage_nothing_is_said(organization: Organization) -> None:
    assert recompute(organization.pk, NOW) == 0


# How a month is made of what was seen


def test_a_few_hours_may_have_been_working_hours() -> None:
    window = Window(Period(NOW - timedelta(hours=10), NOW))
    seen = SavingRange(Decimal(10), Decimal(10))
    month = window.per_month(seen)
    assert month.high == pytest.approx(Decimal("730.5"))
    assert month.low == pytest.approx(Decimal("730.5") * 40 / 168)


def test_a_week_is_as_good_as_a_month() -> None:
    week = Window(Period(NOW - timedelta(days=7), NOW))
    month = week.per_month(SavingRange(Decimal(1), Decimal(2)))
    assert month.low * 2 == pytest.approx(month.high)
    assert week.count_per_month(168) == 730


def test_a_window_is_an_hour_at_least_and_four_weeks_at_most() -> None:
    assert Window.until(NOW, NOW).period.length == timedelta(hours=1)
    since_may = Window.until(NOW, datetime(2026, 5, 1, tzinfo=UTC))
    assert since_may.period.length == timedelta(days=28)
