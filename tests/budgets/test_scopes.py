"""What a budget counts: its scope, its period; and its thresholds on what is expected."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import IntegrityError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import Organization, Team
from costwatch.budgets.evaluate import evaluate, period_of, state_of
from costwatch.budgets.models import Alert, Budget, Delivery
from costwatch.budgets.notify import deliver
from costwatch.domain.pricing import TOKENS_PER_PRICE, UnitPrice
from costwatch.pricing.models import Meter
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku
from tests.budgets.mailbox import mailbox
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.usage import HOUR, offering, source, token_price, used

NOW = HOUR + timedelta(minutes=50)
OFFERINGS = (("openai", "gpt-4o"), ("openai", "o3"), ("azure", "gpt-4o"))
FEATURES = ("chat", "search")


def budget_of(organization: Organization, **fields: Any) -> Budget:
    usual = {"name": "b", "amount": Decimal(100), "currency": "USD", "addresses": ["f@example.org"]}
    budget = Budget(organization=organization, **(usual | fields))
    budget.full_clean()
    budget.save()
    budget.created_at = NOW - timedelta(days=400)
    budget.save()
    return budget


def spend(organization: Organization, dollars: int, hour: datetime = HOUR) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    used(source(organization), offering(organization), hour, output_tokens=dollars * 10**6)


class TestScopes(TestCase):
    """A law for each scope: what a budget counts is the sum of the calls that are within it, and no other."""

    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.sampled_from(FEATURES),
                st.sampled_from(OFFERINGS),
                st.integers(1, 50),
            ),
            max_size=8,
        ),
        st.sampled_from(["organization", "team", "feature", "model", "provider", "source", "two"]),
    )
    def test_a_budget_counts_what_is_within_its_scope(
        self, uses: list[tuple[int, str, tuple[str, str], int]], scope: str
    ) -> None:
        organization: Organization = OrganizationFactory()
        top: Team = TeamFactory(organization=organization)
        below: Team = TeamFactory(organization=organization, parent=top)
        teams = [None, top, below, TeamFactory(organization=organization)]
        for provider, model in OFFERINGS:
            set_price(
                organization,
                Sku(provider, model, Meter.OUTPUT_TOKENS),
                UnitPrice(Decimal(1), TOKENS_PER_PRICE, "USD"),
                PriceRange(None, None),
                source="test",
            )
        sums: dict[tuple[int, str, tuple[str, str]], int] = {}
        for team, feature, what, dollars in uses:
            sums[team, feature, what] = dollars
            used(
                source(organization, teams[team], feature),
                offering(organization, *what),
                output_tokens=dollars * 10**6,
            )
        fields, within = {
            "organization": ({}, lambda *_: True),
            "team": ({"team": top}, lambda team, *_: team in (1, 2)),
            "feature": ({"feature": "chat"}, lambda _, feature, __: feature == "chat"),
            "model": ({"model": "gpt-4o"}, lambda _, __, what: what[1] == "gpt-4o"),
            "provider": ({"provider": "openai"}, lambda _, __, what: what[0] == "openai"),
            "source": (
                {"source": source(organization, top, "chat")},
                lambda team, feature, _: (team, feature) == (1, "chat"),
            ),
            "two": (
                {"team": top, "model": "gpt-4o"},
                lambda team, _, what: team in (1, 2) and what[1] == "gpt-4o",
            ),
        }[scope]
        budget = budget_of(organization, **fields)  # type: ignore[arg-type]
        expected = sum(dollars for key, dollars in sums.items() if within(*key))
        assert state_of(budget, NOW).spent == expected


MOMENTS = st.integers(0, 3 * 365 * 24 * 60).map(
    lambda minutes: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Africa/Cairo"]
)
KINDS = st.one_of(
    st.just(("day", 1)),
    st.tuples(st.just("week"), st.integers(1, 7)),
    st.tuples(st.sampled_from(["month", "quarter"]), st.integers(1, 28)),
)


@given(MOMENTS, ZONES, KINDS)
def test_periods_cover_all_time_once_and_begin_at_midnight_on_their_first_day(
    moment: datetime, zone: str, kind: tuple[str, int]
) -> None:
    organization = Organization(time_zone=zone)
    budget = Budget(organization=organization, period=kind[0], start_day=kind[1])
    period = period_of(budget, moment)
    assert moment in period
    assert period_of(budget, period.start) == period
    assert period_of(budget, period.end - timedelta(microseconds=1)) == period
    assert period_of(budget, period.end).start == period.end
    first = period.dates(zone)[0]
    assert {"day": 1, "week": first.isoweekday()}.get(kind[0], first.day) == kind[1]
    lengths = {"day": (1, 1), "week": (7, 7), "month": (28, 31), "quarter": (89, 92)}[kind[0]]
    assert lengths[0] <= len(period.dates(zone)) <= lengths[1]


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        (datetime(2026, 3, 29, 12, tzinfo=UTC), 23),
        (datetime(2026, 10, 25, 12, tzinfo=UTC), 25),
    ],
)
def test_a_day_of_a_change_of_summer_time_is_counted_whole(
    organization: Organization, day: datetime, hours: int
) -> None:
    organization.time_zone = "Europe/Berlin"
    organization.save()
    budget = budget_of(organization, period="day")
    midnight = day.replace(hour=0, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    for hour in range(-1, hours + 1):
        spend(organization, 1, midnight + timedelta(hours=hour))
    assert state_of(budget, day).spent == hours


@pytest.mark.parametrize(("period", "start_day"), [("day", 2), ("week", 8), ("month", 29)])
def test_the_database_refuses_a_first_day_outside_the_period(
    organization: Organization, period: str, start_day: int
) -> None:
    with pytest.raises(IntegrityError, match="budget_period"):
        Budget.objects.create(
            organization=organization, name="x", amount=1, period=period, start_day=start_day
        )


def test_what_was_used_in_the_last_minute_of_a_period_is_told_after_it(
    organization: Organization,
) -> None:
    budget = budget_of(organization, period="day", thresholds=[100])
    midnight = HOUR.replace(hour=0) + timedelta(days=1)
    spend(organization, 100, midnight - timedelta(hours=1))
    assert len(evaluate(organization.pk, midnight + timedelta(minutes=1))) == 1
    assert evaluate(organization.pk, midnight + timedelta(minutes=2)) == []
    assert budget.alerts.get().period_end == midnight


def test_a_budget_says_nothing_of_periods_before_it_was_made(organization: Organization) -> None:
    budget = budget_of(organization, period="day")
    midnight = HOUR.replace(hour=0) + timedelta(days=1)
    Budget.objects.filter(pk=budget.pk).update(created_at=midnight)
    spend(organization, 100, midnight - timedelta(hours=1))
    assert evaluate(organization.pk, midnight + timedelta(minutes=1)) == []


def steadily(organization: Organization, dollars: int, days: range) -> datetime:
    """Returns a moment early on the day after the last."""
    for day in days:
        spend(organization, dollars, HOUR.replace(day=day))
    return HOUR.replace(day=days.stop, hour=1)


def test_a_forecast_over_a_threshold_is_told_once_before_it_is_spent(
    organization: Organization,
) -> None:
    budget = budget_of(
        organization, amount=Decimal(200), thresholds=[100], forecast_thresholds=[50, 100, 200]
    )
    now = steadily(organization, 10, range(1, 9))
    [delivery] = evaluate(organization.pk, now)
    assert evaluate(organization.pk, now + timedelta(hours=1)) == []
    told = budget.alerts.order_by("threshold").values_list("basis", "threshold", "expected")
    assert list(told) == [("forecast", 50, 300), ("forecast", 100, 300)]
    with mailbox() as box:
        deliver(delivery, now)
    text = box.mails[0].get_payload(0).get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert "Acme is expected to spend 300.00 USD of 200.00 USD in November 2026: 150.0 %" in text
    assert "Spent so far: 80.00 USD" in text


def test_what_is_already_spent_is_not_told_as_expected_too(organization: Organization) -> None:
    budget = budget_of(
        organization, amount=Decimal(80), thresholds=[100], forecast_thresholds=[100]
    )
    now = steadily(organization, 10, range(1, 9))
    assert len(evaluate(organization.pk, now)) == 1
    assert [alert.basis for alert in budget.alerts.all()] == [Alert.Basis.ACTUAL]


def test_another_length_of_the_period_is_another_period(organization: Organization) -> None:
    budget = budget_of(organization, thresholds=[100])
    month = HOUR.replace(month=10, day=20)
    spend(organization, 100, month)
    assert len(evaluate(organization.pk, month + timedelta(minutes=5))) == 1
    budget.period = Budget.PeriodKind.QUARTER
    budget.save()
    assert len(evaluate(organization.pk, month + timedelta(minutes=6))) == 1
    assert Delivery.objects.count() == 2
