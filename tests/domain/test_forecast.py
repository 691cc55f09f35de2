from datetime import date, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.forecast import FEWEST_DAYS, forecast

NOVEMBER = (date(2026, 11, 1), date(2026, 11, 30))
TODAY = date(2026, 11, 20)


def steady(days: int, amount: int = 10) -> dict[date, Decimal]:
    return {TODAY - timedelta(days=n): Decimal(amount) for n in range(1, days + 1)}


def test_two_days_say_nothing_about_a_month() -> None:
    assert forecast(steady(FEWEST_DAYS - 1), Decimal(0), TODAY, NOVEMBER) is None


def test_a_steady_month_ends_where_one_expects_it() -> None:
    found = forecast(steady(19), Decimal(4), TODAY, NOVEMBER)
    assert found is not None
    assert (found.low, found.expected, found.high) == (300, 300, 300)


def test_days_of_the_month_before_teach_but_are_not_paid_again() -> None:
    first = date(2026, 11, 1)
    days = {first - timedelta(days=n): Decimal(10) for n in range(1, 20)}
    found = forecast(days, Decimal(0), first, NOVEMBER)
    assert found is not None
    assert found.expected == 300


def test_one_expensive_day_does_not_repeat_itself() -> None:
    days = steady(12) | {date(2026, 11, 11): Decimal(1000)}
    found = forecast(days, Decimal(10), TODAY, NOVEMBER)
    assert found is not None
    assert found.expected == 1000 + 11 * 10 + 10 + 10 * 10


def test_weekends_are_expected_to_be_as_they_were() -> None:
    days = {
        day: Decimal(0 if day.weekday() > 4 else 10)
        for day in (TODAY - timedelta(days=n) for n in range(1, 27))
    }
    found = forecast(days, Decimal(10), TODAY, NOVEMBER)
    assert found is not None
    assert found.expected == 10 * 21  # working days of November 2026


@given(
    st.lists(st.decimals(0, 1000, places=2), min_size=3, max_size=25),
    st.decimals(0, 1000, places=2),
)
def test_a_forecast_is_never_below_what_is_spent(amounts: list[Decimal], today: Decimal) -> None:
    days = {TODAY - timedelta(days=n + 1): amount for n, amount in enumerate(amounts)}
    spent = today + sum(amount for day, amount in days.items() if day >= NOVEMBER[0])
    found = forecast(days, today, TODAY, NOVEMBER)
    assert found is not None
    assert spent <= found.low <= found.expected <= found.high
