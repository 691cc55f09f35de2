from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.money import Money, round_to_total, rounded, total

amounts = st.decimals(-(10**9), 10**9, places=20, allow_nan=False, allow_infinity=False)


def test_money_is_never_made_from_a_float() -> None:
    with pytest.raises(TypeError, match="expected a Decimal"):
        Money(0.1, "USD")  # type: ignore[arg-type]


def test_two_currencies_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="one currency"):
        Money(Decimal(1), "USD") + Money(Decimal(1), "EUR")


def test_money_adds_subtracts_and_multiplies() -> None:
    price = Money(Decimal("0.25"), "USD")
    assert price + price - price * 3 == Money(Decimal("-0.25"), "USD")
    assert str((price * Decimal("0.5")).rounded()) == "0.13 USD"


def test_halves_are_rounded_away_from_zero_as_postgres_does() -> None:
    assert rounded(Decimal("0.125")) == Decimal("0.13")
    assert rounded(Decimal("-0.125")) == Decimal("-0.13")


def test_a_large_sum_keeps_its_smallest_digit() -> None:
    large, small = Decimal(10) ** 15, Decimal(1).scaleb(-20)
    assert total([large, small, -large]) == small


@given(st.lists(amounts, max_size=30), st.integers(0, 6))
def test_rounded_amounts_sum_to_the_rounded_total(
    given_amounts: list[Decimal], places: int
) -> None:
    lines = round_to_total(given_amounts, places)
    assert total(lines) == rounded(total(given_amounts), places)
    unit = Decimal(1).scaleb(-places)
    assert all(abs(line - a) <= unit for line, a in zip(lines, given_amounts, strict=True))


def test_what_rounding_leaves_over_goes_to_the_largest_remainder() -> None:
    thirds = [Decimal("0.333"), Decimal("0.333"), Decimal("0.334")]
    assert round_to_total(thirds) == [Decimal("0.33"), Decimal("0.33"), Decimal("0.34")]
