import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.periods import (
    Period,
    day_of,
    hour_of,
    month_of,
    name_of_month,
    next_month,
    previous_month,
)

zones = st.sampled_from(sorted(available_timezones()))
days = st.dates(date(1995, 1, 1), date(2035, 12, 31))


def test_a_month_of_berlin_begins_at_its_midnight() -> None:
    march = month_of(date(2026, 3, 15), "Europe/Berlin")
    assert march.start == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert march.end == datetime(2026, 3, 31, 22, tzinfo=UTC)  # summer time has begun
    assert march.length == timedelta(days=31) - timedelta(hours=1)


def test_the_day_on_which_summer_time_ends_has_25_hours() -> None:
    assert day_of(date(2026, 10, 25), "Europe/Berlin").length == timedelta(hours=25)


def test_a_moment_falls_into_the_month_that_its_zone_says() -> None:
    moment = datetime(2026, 10, 31, 23, 30, tzinfo=UTC)
    assert name_of_month(month_of(moment, "Europe/Berlin"), "Europe/Berlin") == "2026-11"
    assert name_of_month(month_of(moment, "UTC"), "UTC") == "2026-10"


@given(days, zones)
def test_months_follow_each_other_without_gap_or_overlap(day: date, zone: str) -> None:
    month = month_of(day, zone)
    assert next_month(month, zone).start == month.end
    assert previous_month(month, zone).end == month.start
    assert previous_month(next_month(month, zone), zone) == month


@given(days, zones)
def test_the_days_of_a_month_fill_it(day: date, zone: str) -> None:
    month = month_of(day, zone)
    cut = list(month.days(zone))
    assert cut[0].start == month.start
    assert cut[-1].end == month.end
    assert all(a.end == b.start for a, b in itertools.pairwise(cut))


def test_a_period_holds_its_start_and_not_its_end() -> None:
    day = day_of(date(2026, 11, 20), "UTC")
    assert day.start in day
    assert day.end not in day


def test_a_period_without_length_or_zone_is_refused() -> None:
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    with pytest.raises(ValueError, match="start before the end"):
        Period(noon, noon)
    with pytest.raises(ValueError, match="with its zone"):
        Period(noon.replace(tzinfo=None), noon)
    with pytest.raises(ValueError, match="with its zone"):
        month_of(noon.replace(tzinfo=None), "UTC")


def test_an_hour_is_a_whole_hour_of_utc() -> None:
    at = datetime.fromisoformat("2026-11-20T12:45:30.5+05:30")
    assert hour_of(at) == datetime(2026, 11, 20, 7, tzinfo=UTC)
