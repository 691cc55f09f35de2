from datetime import date

import pytest

from costwatch.domain.periods import Period, day_of, month_of, quarter_of, title_of, week_of

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("period", "title"),
    [
        (day_of(date(2026, 3, 29), BERLIN), "29 March 2026"),
        (month_of(date(2026, 3, 29), BERLIN), "March 2026"),
        (quarter_of(date(2026, 3, 29), BERLIN), "Q1 2026"),
        (quarter_of(date(2026, 12, 31), BERLIN), "Q4 2026"),
        (week_of(date(2026, 3, 29), BERLIN), "23 March 2026 to 29 March 2026"),
        (month_of(date(2026, 1, 5), BERLIN, 15), "15 December 2025 to 14 January 2026"),
        (quarter_of(date(2026, 1, 5), BERLIN, 15), "15 October 2025 to 14 January 2026"),
    ],
)
def test_a_period_is_called_by_its_name_or_by_its_days(period: Period, title: str) -> None:
    assert title_of(period, BERLIN) == title


@pytest.mark.parametrize(("of", "first_day"), [(week_of, 8), (month_of, 29), (quarter_of, 0)])
def test_a_first_day_that_not_every_period_has_is_refused(of: object, first_day: int) -> None:
    with pytest.raises(ValueError, match=f"first day {first_day}: expected 1 to"):
        of(date(2026, 3, 29), BERLIN, first_day)  # type: ignore[operator]
