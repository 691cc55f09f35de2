"""Bills beside metered cost: what differs, and why."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.providers.lines import BillLine
from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import Period
from costwatch.domain.reconciliation import Cause
from costwatch.pricing.cost import total
from costwatch.pricing.exchange_rates import DayRate, set_rates
from costwatch.pricing.models import Meter
from costwatch.reports.bill_models import ProviderProject
from costwatch.reports.reconcile import Reconciliation, Row, reconcile, summed
from tests.factories import OrganizationFactory, ingest_key
from tests.pricing.usage import device_price, offering, source, token_price, used
from tests.reports.billing import DAY, SETTLED, billed, line

HOUR = datetime(2026, 11, 3, 9, tzinfo=UTC)
MODEL = "gpt-4o-2024-08-06"
MILLION = 1_000_000


@pytest.fixture
def shop(organization: Organization) -> Organization:
    """Paid 10 dollars for a million output tokens of gpt-4o."""
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    return organization


def use(organization: Organization, millions: int, hour: datetime = HOUR, **how: Any) -> None:
    what = offering(organization, model=how.pop("model", MODEL), **how)
    used(source(organization), what, hour, output_tokens=millions * MILLION)


def found(organization: Organization, first: date = DAY, last: date = DAY) -> Reconciliation:
    return reconcile(organization, first, last)


def only(reconciled: Reconciliation) -> Row:
    [row] = reconciled.rows
    return row


def causes(row: Row) -> dict[str, str]:
    return {cause.value: f"{amount.normalize():f}" for cause, amount in row.causes.items()}


def test_where_bill_and_metering_agree_nothing_differs(shop: Organization) -> None:
    use(shop, 2)
    billed(shop, line("20", 2 * MILLION))
    row = only(found(shop))
    assert (row.key.provider, row.key.model, row.key.day) == ("openai", "gpt-4o", DAY)
    assert (row.billed, row.metered, row.variance, row.causes) == (20, 20, 0, {})
    assert row.coverage_percent == 100


def test_dated_names_of_a_model_meet(shop: Organization) -> None:
    use(shop, 1, model="gpt-4o")
    billed(shop, line("10", MILLION))
    assert only(found(shop)).variance == 0


def test_what_was_not_metered_lowers_the_coverage(shop: Organization) -> None:
    use(shop, 1)
    billed(shop, line("40", 4 * MILLION))
    row = only(found(shop))
    assert causes(row) == {"not_metered": "30"}
    assert row.coverage_percent == 25


def test_a_price_that_lacks_is_named(shop: Organization) -> None:
    used(source(shop), offering(shop, model="gpt-9"), HOUR, output_tokens=MILLION)
    billed(shop, line("10", MILLION, model="gpt-9"))
    row = only(found(shop))
    assert (row.metered, causes(row), row.coverage_percent) == (0, {"unpriced": "10"}, 0)


def test_tokens_billed_at_another_tier_are_named(shop: Organization) -> None:
    token_price(shop, Meter.OUTPUT_TOKENS, "5", tier="batch")
    use(shop, 1, tier="batch")
    billed(shop, line("10", MILLION))
    assert causes(only(found(shop))) == {"wrong_tier": "5"}


def test_a_bill_with_two_places_rounds(shop: Organization) -> None:
    used(source(shop), offering(shop, model=MODEL), HOUR, output_tokens=123_456)
    billed(shop, line("1.23", 123_456))
    assert causes(only(found(shop))) == {"rounding": "-0.00456"}


def test_before_a_day_is_settled_what_lacks_is_late(shop: Organization) -> None:
    use(shop, 2)
    billed(shop, line("10", MILLION), now=datetime(2026, 11, 4, 5, tzinfo=UTC))
    row = only(found(shop))
    assert (row.is_final, causes(row)) == (False, {"late": "-10"})


def test_days_are_those_of_utc_whatever_the_zone(shop: Organization) -> None:
    shop.time_zone = "America/Los_Angeles"
    shop.save()
    next_day = DAY + timedelta(days=1)
    use(shop, 1, datetime(2026, 11, 3, 23, tzinfo=UTC))
    use(shop, 5, datetime(2026, 11, 4, 0, tzinfo=UTC))
    billed(shop, line("10", MILLION), line("50", 5 * MILLION, day=next_day), days=[DAY, next_day])
    rows = found(shop, DAY, next_day).rows
    assert [(row.key.day, row.metered, row.variance) for row in rows] == [
        (DAY, 10, 0), (next_day, 50, 0),
    ]  # fmt: skip


def test_days_without_a_bill_are_set_apart(shop: Organization) -> None:
    use(shop, 1)
    use(shop, 2, HOUR + timedelta(days=1))
    use(shop, 4, provider="anthropic", model="claude-sonnet-4-5")
    billed(shop, line("10", MILLION))
    reconciled = found(shop, DAY, DAY + timedelta(days=1))
    assert only(reconciled).variance == 0
    assert [(one.provider, one.days, one.metered) for one in reconciled.unbilled] == [
        ("anthropic", 1, Decimal(0)), ("openai", 1, Decimal(20)),
    ]  # fmt: skip


def test_a_day_billed_with_nothing_is_not_a_day_without_a_bill(shop: Organization) -> None:
    use(shop, 1)
    billed(shop)
    assert causes(only(found(shop))) == {"not_billed": "-10"}


def test_ones_own_devices_are_nobodys_bill(shop: Organization) -> None:
    device_price(shop, "cpu", "1")
    used(source(shop), offering(shop, device_type="cpu"), HOUR, device_ns=10**12)
    billed(shop)
    reconciled = found(shop)
    assert (reconciled.rows, reconciled.unbilled) == ((), ())


def test_projects_are_told_apart_by_the_keys_that_are_linked_to_them(shop: Organization) -> None:
    use(shop, 1)
    key = ingest_key(shop)
    linked = source(shop)
    linked.pk, linked.key = None, key
    linked.save()
    used(linked, offering(shop, model=MODEL), HOUR, output_tokens=3 * MILLION)
    ProviderProject.objects.create(
        organization=shop, provider="openai", project="proj_search", key=key
    )
    billed(
        shop,
        line("30", 3 * MILLION, project="proj_search"),
        line("4", 400_000, project="proj_a"),
        line("8", 800_000, project="proj_b"),
    )
    assert [(row.key.project, row.billed, row.metered) for row in found(shop).rows] == [
        ("", 12, 10), ("proj_search", 30, 30),
    ]  # fmt: skip


def test_what_a_bill_does_not_tell_apart_is_compared_as_a_whole(shop: Organization) -> None:
    use(shop, 1)
    used(source(shop), offering(shop, model="gpt-4o-mini"), HOUR, input_tokens=MILLION)
    token_price(shop, Meter.INPUT_TOKENS, "1", model="gpt-4o-mini")
    billed(shop, line("11", model="", meter="", text="tokens"))
    row = only(found(shop))
    assert (row.key.model, row.billed, row.metered, row.causes) == ("", 11, 11, {})


def test_a_tool_beside_models_is_not_metered(shop: Organization) -> None:
    use(shop, 1)
    billed(shop, line("10", MILLION), line("0.30", model="", meter="", text="web search"))
    rows = {row.key.model: causes(row) for row in found(shop).rows}
    assert rows == {"": {"not_metered": "0.3"}, "gpt-4o": {}}


def test_names_of_one_provider_meet(shop: Organization) -> None:
    billed(shop, line("1", provider="aws.bedrock", model="", meter=""), provider="aws.bedrock")
    used(source(shop), offering(shop, "bedrock", "x"), HOUR, output_tokens=5)
    assert only(found(shop)).key.provider == "aws"


def test_a_bill_in_another_currency_is_compared_at_the_days_rate(shop: Organization) -> None:
    use(shop, 1)
    set_rates(shop, [DayRate(DAY, "EUR", Decimal("1.25"))], source="test")
    billed(shop, line("8", MILLION, currency="EUR"))
    row = only(found(shop))
    assert (row.billed, row.variance, row.uncompared) == (10, 0, {})


def test_without_a_rate_nothing_is_compared_and_the_amount_is_named(shop: Organization) -> None:
    use(shop, 1)
    billed(shop, line("8", MILLION, currency="EUR"))
    reconciled = found(shop)
    row = only(reconciled)
    assert (row.billed, row.metered, row.causes) == (0, 0, {})
    assert row.uncompared == {"EUR": Decimal(8)}
    assert reconciled.total.uncompared == {"EUR": Decimal(8)}
    assert reconciled.total.coverage_percent is None


def test_another_organizations_bills_and_use_are_not_here(shop: Organization) -> None:
    other = OrganizationFactory()
    token_price(other, Meter.OUTPUT_TOKENS, "10")
    use(other, 7)
    billed(other, line("99", 9 * MILLION))
    assert found(shop).rows == ()
    assert only(found(other)).metered == 70


def test_of_no_bill_there_is_nothing_to_sum(shop: Organization) -> None:
    total = found(shop).total
    assert (total.billed, total.variance, total.coverage_percent) == (0, 0, None)


def bill_lines(draw: st.DrawFn) -> list[BillLine]:
    return draw(
        st.lists(
            st.builds(
                lambda amount, tokens, day, model, tier, meter: line(
                    amount,
                    tokens,
                    day=DAY + timedelta(days=day),
                    model=model,
                    text=model,
                    service_tier=tier,
                    meter=meter,
                ),
                st.decimals(-5, 50, places=6).map(str),
                st.none() | st.integers(0, 5 * MILLION),
                st.integers(0, 1),
                st.sampled_from(["gpt-4o", "gpt-9", ""]),
                st.sampled_from(["", "batch"]),
                st.sampled_from(["output_tokens", "input_tokens", ""]),
            ),
            max_size=6,
        )
    )


class Laws(TestCase):
    @settings(max_examples=30, deadline=None)
    @given(st.data())
    def test_causes_sum_to_the_variance_and_rows_to_what_was_billed_and_metered(
        self, data: st.DataObject
    ) -> None:
        organization = OrganizationFactory()
        token_price(organization, Meter.OUTPUT_TOKENS, "10")
        token_price(organization, Meter.INPUT_TOKENS, "0.000000000003")
        for n, (model, tier) in enumerate(
            (m, t) for m in ("gpt-4o", "gpt-9") for t in ("", "batch")
        ):
            tokens = data.draw(st.integers(0, 3 * MILLION))
            what = offering(organization, model=model, tier=tier)
            hour = HOUR + timedelta(hours=9 * n)
            used(source(organization), what, hour, output_tokens=tokens, input_tokens=tokens // 7)
        lines = data.draw(st.composite(bill_lines)())
        days = [DAY, DAY + timedelta(days=1)]
        billed(organization, *lines, days=days)
        reconciled = found(organization, *days)
        for row in [*reconciled.rows, reconciled.total]:
            assert money.total(row.causes.values()) == row.variance
        for by in ((), ("day",), ("provider", "model"), ("project",)):
            rows = summed(reconciled.rows, by)
            assert money.total(row.billed for row in rows) == money.total(
                one.amount for one in lines
            )
            assert money.total(row.variance for row in rows) == reconciled.total.variance
        whole = Period(HOUR.replace(hour=0), HOUR.replace(hour=0) + timedelta(days=2))
        assert reconciled.total.metered == total(organization, whole).cost


def test_the_causes_are_all_that_is_documented() -> None:
    assert {cause.value for cause in Cause} == {
        "not_metered", "not_billed", "unpriced", "wrong_tier", "price", "rounding", "late",
        "unexplained", "currency",
    }  # fmt: skip


def test_the_latest_bill_says_when_it_came(shop: Organization) -> None:
    billed(shop, line("10", MILLION))
    assert found(shop).fetched_at == SETTLED
