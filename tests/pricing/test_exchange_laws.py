"""Money in several currencies, whatever is used, priced, rated and corrected: compared with fractions, which never round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import Organization
from costwatch.domain.exchange import RateHistory
from costwatch.domain.money import total
from costwatch.domain.periods import Period
from costwatch.pricing import cost
from costwatch.pricing.charges import charges
from costwatch.pricing.cost import Dimension, costs
from costwatch.pricing.in_use import skus_used
from costwatch.pricing.models import Meter
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.usage import exchange_rates, offering, source, token_price, used

# Summer time ended in Berlin on 2026-10-25 at 01:00 UTC; hours on both sides of it, and of UTC's midnights and Berlin's.
FIRST = date(2026, 10, 23)
HOURS = [
    datetime(2026, 10, day, hour, tzinfo=UTC) for day in (23, 24, 25, 26) for hour in (0, 1, 21, 22, 23)
]  # fmt: skip
PERIOD = Period(datetime(2026, 10, 20, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
MODELS = ("gpt-4o", "gpt-4o-mini")
METERS = (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS)
MAX_AGE_DAYS = 10

_uses = st.tuples(
    st.sampled_from(HOURS), st.sampled_from([0, 1]), st.sampled_from(MODELS), st.integers(1, 10**12)
)
_prices = st.tuples(
    st.sampled_from(MODELS),
    st.sampled_from(METERS),
    st.decimals(0, 100, places=6),
    st.sampled_from(["EUR", "USD", "GBP"]),
    st.none() | st.sampled_from(HOURS),
)
_rates = st.tuples(
    st.sampled_from(["USD", "GBP"]),
    st.integers(-2, 4).map(lambda days: FIRST + timedelta(days=days)),
    st.decimals("0.000000000001", 200, places=12),
)


@dataclass(frozen=True)
class World:
    organization: Organization

    @classmethod
    def made(cls, uses: Iterable[tuple], prices: Iterable[tuple], rates: Iterable[tuple]) -> World:
        world = cls(OrganizationFactory(currency="EUR", time_zone="Europe/Berlin"))
        teams = [TeamFactory(organization=world.organization) for _ in range(2)]
        for hour, team, model, tokens in uses:
            what = offering(world.organization, model=model)
            used(source(world.organization, teams[team]), what, hour, input_tokens=tokens, output_tokens=tokens // 3)  # fmt: skip
        world.price(prices)
        world.rate(rates)
        return world

    def price(self, prices: Iterable[tuple]) -> None:
        for model, meter, amount, currency, start in prices:
            token_price(self.organization, meter, f"{amount:f}", model=model, start=start, currency=currency)  # fmt: skip

    def rate(self, rates: Iterable[tuple]) -> None:
        for base, day, rate in rates:
            exchange_rates(self.organization, base, {day: f"{rate:f}"})

    def told(self) -> list[tuple[object, ...]]:
        by = (Dimension.MODEL, Dimension.METER)
        rows = costs(self.organization, PERIOD, group_by=by, interval="hour")
        return [(row.key, row.start, row.cost, row.unpriced_tokens) for row in rows]


def expected(uses: Sequence[tuple], prices: Sequence[tuple], rates: Sequence[tuple]) -> Fraction:
    """By hand: the last price that was set for the hour, times the last rate of the newest day that is not too old."""
    last = {(hour, team, model): tokens for hour, team, model, tokens in uses}
    held = {(base, day): rate for base, day, rate in rates}
    whole = Fraction(0)
    for (hour, _, model), tokens in last.items():
        for meter, count in ((METERS[0], tokens), (METERS[1], tokens // 3)):
            amount, currency = _price(prices, model, meter, hour)
            days = [hour.date() - timedelta(days=age) for age in range(MAX_AGE_DAYS + 1)]
            known = [held[currency, day] for day in days if (currency, day) in held]
            rate = Decimal(1) if currency == "EUR" else next(iter(known), Decimal(0))
            whole += Fraction(amount) * count * Fraction(rate) / 1_000_000
    return whole


def _price(prices: Sequence[tuple], model: str, meter: str, hour: datetime) -> tuple[Decimal, str]:
    """A price holds from its hour until the next one that is set; of two from one hour the later one."""
    beginnings = {
        start: (amount, currency)
        for of_model, of_meter, amount, currency, start in prices
        if (of_model, of_meter) == (model, meter)
    }
    begun = [start for start in beginnings if start is None or start <= hour]
    if not begun:
        return Decimal(0), "EUR"
    return beginnings[max(begun, key=lambda start: (start is not None, start or hour))]


_SLOW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Laws(TestCase):
    @_SLOW
    @given(st.lists(_uses, max_size=6), st.lists(_prices, max_size=5), st.lists(_rates, max_size=6))
    def test_every_sum_is_exactly_quantity_times_price_times_the_days_rate(
        self, uses: list[tuple], prices: list[tuple], rates: list[tuple]
    ) -> None:
        world = World.made(uses, prices, rates)
        organization = world.organization
        whole = cost.total(organization, PERIOD)
        assert Fraction(whole.cost) == expected(uses, prices, rates)
        for group_by in (
            (Dimension.TEAM,),
            (Dimension.METER, Dimension.MODEL),
            (Dimension.SOURCE,),
        ):
            for interval in (None, "hour", "day", "month"):
                rows = costs(organization, PERIOD, group_by=group_by, interval=interval)  # type: ignore[arg-type]
                assert total(row.cost for row in rows) == whole.cost
                assert sum(row.unpriced_tokens for row in rows) == whole.unpriced_tokens
                assert all(type(row.cost) is Decimal for row in rows)
        for day in PERIOD.days("Europe/Berlin"):
            hours = costs(organization, day, interval="hour")
            assert total(row.cost for row in hours) == cost.total(organization, day).cost
        assert total(one.cost for one in charges(organization, PERIOD).charges) == whole.cost
        uses_of_skus = skus_used(organization, PERIOD)
        assert total(use.cost for use in uses_of_skus) == whole.cost
        for use in uses_of_skus:
            if use.price is not None and use.price.currency == "EUR":
                assert use.price_cost == use.cost
            if use.price is not None:
                exact = Fraction(use.price.unit_price) * use.quantity / 1_000_000
                assert Fraction(use.price_cost) == exact

    @_SLOW
    @given(
        st.lists(_uses, max_size=5),
        st.lists(_prices, max_size=4),
        st.lists(_rates, max_size=5),
        st.lists(_rates, max_size=5),
    )
    def test_costing_again_after_rates_were_corrected_equals_costing_afresh(
        self, uses: list[tuple], prices: list[tuple], first: list[tuple], later: list[tuple]
    ) -> None:
        corrected = World.made(uses, prices, first)
        cost.total(corrected.organization, PERIOD)
        corrected.rate(later)
        fresh = World.made(uses, prices, [*first, *later])
        assert corrected.told() == fresh.told()


@given(
    st.dictionaries(st.integers(0, 60), st.decimals(1, 2, places=4), max_size=8),
    st.integers(0, 80),
    st.integers(0, 20),
)
def test_a_rate_holds_from_its_day_until_the_next_one_or_until_it_is_too_old(
    rates: dict[int, Decimal], day: int, max_age_days: int
) -> None:
    days = sorted(rates)
    history = RateHistory([FIRST + timedelta(days=n) for n in days], [rates[n] for n in days], max_age_days)  # fmt: skip
    reach = [n for n in days if day - max_age_days <= n <= day]
    assert history.on(FIRST + timedelta(days=day)) == (rates[max(reach)] if reach else None)
