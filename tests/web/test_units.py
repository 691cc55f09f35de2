from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.web.templatetags import units


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("1234567.891", "$1,234,567.89"),
        ("12.3", "$12.30"),
        ("0.5", "$0.50"),
        ("0.0123", "$0.012"),
        ("0.00012345", "$0.00012"),
        ("0.0000001", "<\u00a0$0.000001"),
        ("-3.999", "−$4.00"),
    ],
)
def test_small_amounts_keep_two_significant_digits_and_large_ones_cents(
    amount: str, shown: str
) -> None:
    assert units.money(Decimal(amount)) == shown


def test_a_currency_without_a_sign_is_named() -> None:
    assert units.money(Decimal("1.5"), "CHF") == "CHF\u00a01.50"


@given(st.decimals(min_value=Decimal("0.000001"), max_value=10**9, places=12))
def test_an_amount_that_is_not_zero_never_looks_like_zero(amount: Decimal) -> None:
    assert any(digit in "123456789" for digit in units.money_text(amount))


@pytest.mark.parametrize(
    "shown",
    [
        units.money,
        units.tokens,
        units.exact,
        units.duration,
        units.seconds,
        units.device_seconds,
        units.energy,
        units.percent,
        units.unit_price,
        units.known,
    ],
)
def test_what_nobody_knows_is_unknown_and_never_zero(shown: object) -> None:
    assert callable(shown)
    assert "unknown" in str(shown(None))
    assert "0" not in str(shown(None))


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (100_000, "100\u00a0k"),
        (1_234_567, "1.23\u00a0M"),
        (45_600_000_000, "45.6\u00a0G"),
        (7 * 10**12, "7.00\u00a0T"),
    ],
)
def test_counts_are_exact_while_they_fit_and_then_round_to_three_digits(
    count: int, shown: str
) -> None:
    assert units.tokens(count) == shown


@pytest.mark.parametrize(
    ("duration_ns", "shown"),
    [
        (0, "0\u00a0ns"),
        (842_000_000, "842\u00a0ms"),
        (1_240_000_000, "1.24\u00a0s"),
        (36_500, "36.5\u00a0µs"),
        (150 * 10**9, "2.5\u00a0min"),
        (3 * 3600 * 10**9, "3.0\u00a0h"),
    ],
)
def test_a_latency_is_shown_in_the_unit_of_its_size(duration_ns: int, shown: str) -> None:
    assert units.duration(duration_ns) == shown


def test_device_time_stays_in_seconds_at_every_size() -> None:
    assert units.device_seconds(90_000_000) == "0.09\u00a0s"
    assert units.device_seconds(7_200 * 10**9) == "7,200\u00a0s"


def test_a_unit_price_keeps_every_digit() -> None:
    assert units.unit_price(Decimal("0.075000000000")) == "$0.075"
    assert units.unit_price(Decimal("2.500000000000")) == "$2.50"
    assert units.unit_price(Decimal("100")) == "$100.00"


def test_a_bar_is_as_wide_as_its_share_and_never_wider_than_its_ground() -> None:
    assert 'width="25.00"' in units.share_bar(Decimal("0.25"), 1)
    assert 'width="100.00"' in units.share_bar(Decimal("1.2"), 1)
    assert "style" not in units.share_bar(Decimal("0.25"), 1)
