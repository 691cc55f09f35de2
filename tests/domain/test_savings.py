from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.savings import SavingRange, stacked, stacked_ranges, together

fractions = st.decimals(0, 1, places=4)


def test_two_halves_save_three_quarters_and_not_everything() -> None:
    assert stacked([Decimal("0.5"), Decimal("0.5")]) == Decimal("0.75")


@given(st.lists(fractions, max_size=8))
def test_stacked_savings_are_less_than_their_sum_and_never_all(saved: list[Decimal]) -> None:
    assert max([*saved, Decimal(0)]) <= stacked(saved) <= min(Decimal(1), sum(saved, Decimal(0)))
    assert stacked(reversed(saved)) == stacked(saved)


def test_ranges_stack_at_both_ends() -> None:
    half_or_so = SavingRange(Decimal("0.4"), Decimal("0.5"))
    assert stacked_ranges([half_or_so, half_or_so]) == SavingRange(Decimal("0.64"), Decimal("0.75"))


def test_savings_on_different_money_add_up() -> None:
    one = SavingRange(Decimal(1), Decimal(2))
    assert together([one, one]) == one.times(Decimal(2))


def test_nobody_saves_more_than_all() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        stacked([Decimal("1.1")])


def test_a_reversed_range_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller saving first"):
        SavingRange(Decimal(2), Decimal(1))
