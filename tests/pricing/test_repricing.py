"""What a price would change is what it changes, and asking changes nothing."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.domain.periods import Period
from costwatch.domain.pricing import TOKENS_PER_PRICE, PriceState, UnitPrice
from costwatch.pricing.cost import Dimension, Filters, costs, total
from costwatch.pricing.in_use import skus_used
from costwatch.pricing.models import Price
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku, refresh
from costwatch.pricing.repricing import is_far_off, repriced
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.usage import HOUR, offering, source, used

OUTPUT = Sku("openai", "mystery-1", "output_tokens")
WIDE = Period(HOUR - timedelta(days=80), HOUR + timedelta(days=20))


def per_million(amount: str, currency: str = "USD") -> UnitPrice:
    return UnitPrice(Decimal(amount), TOKENS_PER_PRICE, currency)


def by_team(organization: Organization) -> dict[tuple[object, object], Decimal]:
    rows = costs(organization, WIDE, group_by=[Dimension.TEAM], interval="month")
    return {(row.start, row.key[Dimension.TEAM]): row.cost for row in rows}


def test_asking_says_by_month_and_team_and_changes_nothing(organization: Organization) -> None:
    team = TeamFactory(organization=organization)
    what = offering(organization, model="mystery-1")
    used(source(organization, team), what, HOUR, output_tokens=1_000_000)
    used(source(organization), what, HOUR - timedelta(days=40), output_tokens=500_000)
    refresh(organization.pk)
    found = repriced(organization, OUTPUT, per_million("3"), PriceRange())
    assert [(row.team_id, row.before, row.after) for row in found] == [
        (None, Decimal(0), Decimal("1.5")),
        (team.pk, Decimal(0), Decimal(3)),
    ]
    assert [row.unpriced_calls_after for row in found] == [0, 0]
    assert not Price.objects.exists()
    assert not AuditEvent.objects.exists()
    assert sum(by_team(organization).values()) == 0


def test_a_price_for_later_hours_changes_no_earlier_ones(organization: Organization) -> None:
    used(source(organization), offering(organization, model="mystery-1"), HOUR, output_tokens=10)
    refresh(organization.pk)
    tomorrow = PriceRange(HOUR + timedelta(days=1))
    assert repriced(organization, OUTPUT, per_million("3"), tomorrow) == []


def test_what_is_used_is_known_free_or_unknown_and_unknown_comes_first(
    organization: Organization,
) -> None:
    for model, tokens in (("mystery-1", 5), ("mystery-2", 7), ("gift", 9), ("paid", 11)):
        used(source(organization), offering(organization, model=model), HOUR, output_tokens=tokens)
    for model, amount in (("gift", "0"), ("paid", "4")):
        set_price(organization, Sku("openai", model, "output_tokens"), per_million(amount), PriceRange(), source="test")  # fmt: skip
    found = [(use.sku.model, use.state, use.quantity) for use in skus_used(organization, WIDE)]
    assert found == [
        ("mystery-2", PriceState.UNKNOWN, 7),
        ("mystery-1", PriceState.UNKNOWN, 5),
        ("paid", PriceState.KNOWN, 11),
        ("gift", PriceState.FREE, 9),
    ]
    assert sum(use.cost for use in skus_used(organization, WIDE)) == Decimal("0.000044")


def test_a_price_for_another_unit_is_far_off_and_a_free_one_is_not() -> None:
    assert is_far_off(per_million("2500"), per_million("2.5"))
    assert is_far_off(UnitPrice(Decimal("2.5"), 1_000, "USD"), per_million("2.5"))
    assert is_far_off(per_million("0.1"), per_million("2.5"))
    assert not is_far_off(per_million("2"), per_million("2.5"))
    assert not is_far_off(per_million("0"), per_million("2.5"))
    assert not is_far_off(per_million("2500", "JPY"), per_million("2.5"))


_AMOUNTS = st.decimals(0, 1000, places=6)
_HOURS = st.integers(-60, 10).map(lambda days: HOUR + timedelta(days=days))


class AsItWillBe(TestCase):
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.tuples(_HOURS, st.booleans(), st.integers(1, 10**9)), min_size=1, max_size=6),
        st.lists(st.tuples(_AMOUNTS, st.none() | _HOURS), min_size=1, max_size=3),
    )
    def test_what_was_shown_is_what_setting_the_price_does(
        self,
        uses: list[tuple[object, bool, int]],
        prices: list[tuple[Decimal, object]],
    ) -> None:
        organization = OrganizationFactory(time_zone="Europe/Berlin")
        team = TeamFactory(organization=organization)
        what = offering(organization, model="mystery-1")
        for hour, has_team, tokens in uses:
            used(source(organization, team if has_team else None), what, hour, output_tokens=tokens)
        refresh(organization.pk)
        for amount, start in prices:
            price, period = per_million(f"{amount:f}"), PriceRange(start)
            before = by_team(organization)
            shown = repriced(organization, OUTPUT, price, period)
            assert by_team(organization) == before
            set_price(organization, OUTPUT, price, period, source="test")
            after = by_team(organization)
            for only in (
                Filters(),
                Filters(team_ids=frozenset({team.pk})),
                Filters(unattributed=True),
            ):
                made_of = sum(use.cost for use in skus_used(organization, WIDE, only))
                assert made_of == total(organization, WIDE, only).cost
            assert sum(row.difference for row in shown) == sum(after.values()) - sum(
                before.values()
            )
