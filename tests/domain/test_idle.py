"""Who carries what no call used of a pool."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.idle import (
    HourUse,
    Payer,
    Policy,
    Use,
    rests_of,
    split,
    use_of,
    weights,
)

NOBODY = Use()
NS = st.integers(0, 4 * 10**12)
PAYERS: st.SearchStrategy[Payer] = st.one_of(st.none(), st.integers(1, 5))
USES = st.dictionaries(PAYERS, NS, max_size=5)
PERCENTS = st.dictionaries(st.integers(1, 5), st.integers(1, 20), max_size=5)


@given(
    st.sampled_from(Policy), NS, USES, st.lists(USES, max_size=4), PERCENTS, st.integers(0, 10**25)
)
def test_under_every_policy_a_bill_is_charged_to_the_last_digit_and_nobody_is_paid(
    policy: Policy,
    wall_ns: int,
    used_ns: dict[Payer, int],
    others: list[dict[Payer, int]],
    percents: dict[int, int],
    bill: int,
) -> None:
    parts = split(bill, weights(policy, wall_ns, used_ns, use_of([used_ns, *others]), percents))
    assert sum(parts.values()) == bill
    assert all(part >= 0 for part in parts.values())


@given(USES, st.lists(USES, max_size=4), st.integers(0, 10**25))
def test_a_team_without_use_carries_nothing_by_proportion(
    used_ns: dict[Payer, int], others: list[dict[Payer, int]], bill: int
) -> None:
    month = use_of([used_ns, *others])
    parts = split(bill, weights(Policy.PROPORTIONAL, 10**13, used_ns, month, {}))
    idle = {payer for payer in (1, 2, 3, 4, 5) if not month.total_ns.get(payer)}
    assert not idle & {payer for payer, part in parts.items() if part}


HOURS = st.lists(st.tuples(NS, NS, NS), max_size=8)


@given(HOURS)
def test_use_and_rests_are_the_wall_time_or_what_was_used_beyond_it(
    hours: list[tuple[int, int, int]],
) -> None:
    told = [HourUse(wall, min(idle, wall), used) for wall, idle, used in hours]
    rests = list(rests_of(told))
    charged = sum(hour.used_ns for hour in told) + sum(rest.ns for rest in rests)
    wall = sum(hour.wall_ns for hour in told)
    assert all(min(rest.idle_ns, rest.unattributed_ns) >= 0 for rest in rests)
    assert all(rest.idle_ns <= hour.idle_ns for rest, hour in zip(rests, told, strict=True))
    assert charged >= wall
    if charged > wall:  # then the last hours are used up
        assert charged - wall <= sum(hour.used_ns for hour in told)


def test_a_call_that_ran_on_into_the_next_hour_is_not_paid_twice() -> None:
    hours = [HourUse(3600, 0, 3610), HourUse(3600, 100, 3400)]
    assert [(rest.idle_ns, rest.unattributed_ns) for rest in rests_of(hours)] == [(0, 0), (100, 90)]


def test_an_hour_without_use_is_carried_by_the_months_and_else_by_the_platform() -> None:
    month = use_of([{1: 30, 2: 10}])
    assert split(40, weights(Policy.PROPORTIONAL, 40, {}, month, {})) == {1: 30, 2: 10}
    assert split(40, weights(Policy.PROPORTIONAL, 40, {}, NOBODY, {})) == {None: 40}


def test_who_used_more_than_it_reserved_carries_nothing_of_what_others_left() -> None:
    used: dict[Payer, int] = {1: 60, 2: 10}
    assert split(30, weights(Policy.RESERVED, 100, used, NOBODY, {1: 50, 2: 40})) == {
        2: 23,
        None: 7,
    }


def test_by_peak_a_teams_busiest_hour_counts_and_not_how_long_it_was_busy() -> None:
    month = use_of([{1: 90}, {2: 30}, {2: 30}, {2: 30}])
    assert split(8, weights(Policy.PEAK, 100, {}, month, {})) == {1: 6, 2: 2}


def test_the_platform_carries_all_under_its_own_policy() -> None:
    assert weights(Policy.PLATFORM, 100, {1: 60}, use_of([{1: 60}]), {}) == {None: 1}
