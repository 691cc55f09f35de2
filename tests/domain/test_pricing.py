import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.money import Money, total
from costwatch.domain.pricing import (
    NS_PER_HOUR,
    PriceState,
    Ranged,
    UnitPrice,
    at,
    overlaid,
    state_of,
    without,
)

_MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
hours = st.one_of(st.none(), st.integers(0, 10).map(lambda n: _MIDNIGHT + timedelta(hours=n)))
moments = [_MIDNIGHT + timedelta(hours=n, minutes=30) for n in range(-2, 13)]


def test_a_price_per_million_is_exact() -> None:
    price = UnitPrice(Decimal("0.15"), 1_000_000, "USD")
    assert price.cost(1234) == Money(Decimal("0.00018510000000000000"), "USD")


def test_the_cost_of_one_nanosecond_is_rounded_beyond_what_anybody_pays() -> None:
    cost = UnitPrice(Decimal("0.1"), NS_PER_HOUR, "USD").cost(1).amount
    assert abs(Fraction(cost) - Fraction(1, 10 * NS_PER_HOUR)) <= Fraction(1, 2 * 10**20)


prices = st.decimals(0, 1000, places=12)


@given(prices, st.lists(st.integers(0, 10**12), max_size=20))
def test_the_costs_of_calls_sum_to_the_cost_of_their_sum(
    amount: Decimal, quantities: list[int]
) -> None:
    price = UnitPrice(amount, 1_000_000, "USD")
    assert total(price.cost(q).amount for q in quantities) == price.cost(sum(quantities)).amount


@pytest.mark.parametrize("amount", [Decimal(-1), Decimal("NaN"), Decimal("Infinity"), 0.1])
def test_what_is_no_price_is_refused(amount: Decimal) -> None:
    with pytest.raises(ValueError, match="such as"):
        UnitPrice(amount, 1, "USD")


def test_a_price_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="how much the price buys"):
        UnitPrice(Decimal(1), 0, "USD")


def test_unknown_is_not_free() -> None:
    states = [state_of(Decimal(1)), state_of(Decimal(0)), state_of(None)]
    assert states == [PriceState.KNOWN, PriceState.FREE, PriceState.UNKNOWN]


@st.composite
def layers(draw: st.DrawFn) -> list[Ranged[int]]:
    """Ranges that do not overlap."""
    edges = sorted(draw(st.sets(st.integers(0, 10), max_size=8)))
    bounds: list[datetime | None] = [_MIDNIGHT + timedelta(hours=n) for n in edges]
    if draw(st.booleans()):
        bounds = [None, *bounds]
    if draw(st.booleans()):
        bounds = [*bounds, None]
    pairs = itertools.pairwise(bounds)
    return [Ranged(a, b, n) for n, (a, b) in enumerate(pairs) if draw(st.booleans())]


@given(layers(), layers())
def test_the_first_layer_holds_and_the_next_fills_its_gaps(
    first: list[Ranged[int]], second: list[Ranged[int]]
) -> None:
    second = [Ranged(r.valid_from, r.valid_until, -r.value - 1) for r in second]
    timeline = overlaid(first, second)
    for moment in moments:
        expected = at(first, moment)
        assert at(timeline, moment) == (at(second, moment) if expected is None else expected)
        assert sum(one.holds_at(moment) for one in timeline) <= 1


@given(hours, hours, hours, hours)
def test_what_is_taken_out_of_a_range_is_gone_and_the_rest_stays(
    start: datetime | None, end: datetime | None, cut: datetime | None, until: datetime | None
) -> None:
    whole, taken = Ranged(start, end, 1), Ranged(cut, until, 2)
    if (start and end and start >= end) or (cut and until and cut >= until):
        return
    left = without(whole, cut, until)
    for moment in moments:
        expected = whole.holds_at(moment) and not taken.holds_at(moment)
        assert (at(left, moment) == 1) == expected
