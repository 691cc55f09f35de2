"""Whose a device's time was, by the times of calls."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from costwatch.domain.allocation import HOUR_NS
from costwatch.domain.sharing import Interval, in_model_shares


def shared(intervals: list[Interval]) -> list[int]:
    """Each call's part, over all hours."""
    hours = in_model_shares(intervals).values()
    return [sum(each) for each in zip(*hours, strict=True)] or [0] * len(intervals)


def test_a_call_alone_had_the_device_to_itself() -> None:
    assert shared([Interval(5, 25), Interval(30, 40)]) == [20, 10]


def test_calls_that_overlap_share_the_time_in_which_both_are_there() -> None:
    assert shared([Interval(0, 100), Interval(50, 150)]) == [75, 75]


def test_one_among_many_pays_little() -> None:
    shares = shared([Interval(0, 1000)] * 9 + [Interval(0, 100)])
    assert shares[-1] == 10
    assert sum(shares) == 1000


def test_an_hour_of_a_device_is_shared_by_those_who_were_there_in_it() -> None:
    long, late = Interval(HOUR_NS - 100, HOUR_NS + 100), Interval(HOUR_NS, HOUR_NS + 100)
    assert shared([long, late]) == [150, 50]


def test_a_call_of_no_time_costs_nothing() -> None:
    assert shared([Interval(7, 7), Interval(0, 10)]) == [0, 10]


_AT = st.integers(HOUR_NS - 2_000, HOUR_NS + 2_000)
_INTERVALS = st.lists(
    st.tuples(_AT, st.integers(0, 1_500)).map(lambda said: Interval(said[0], sum(said))),
    max_size=12,
)


def union_ns(intervals: list[Interval]) -> int:
    total, end_ns = 0, 0
    for interval in sorted(intervals):
        total += max(0, interval.end_ns - max(interval.start_ns, end_ns))
        end_ns = max(end_ns, interval.end_ns)
    return total


def cut(interval: Interval, first_ns: int, last_ns: int) -> Interval:
    start_ns = min(max(interval.start_ns, first_ns), last_ns)
    return Interval(start_ns, max(start_ns, min(interval.end_ns, last_ns)))


@given(_INTERVALS)
def test_shares_sum_to_the_time_in_which_anybody_was_there(intervals: list[Interval]) -> None:
    assert sum(shared(intervals)) == union_ns(intervals)


@given(_INTERVALS)
def test_no_hour_gives_away_what_another_has(intervals: list[Interval]) -> None:
    before = [cut(each, 0, HOUR_NS) for each in intervals]
    after = [cut(each, HOUR_NS, 2 * HOUR_NS) for each in intervals]
    both = zip(shared(before), shared(after), strict=True)
    assert shared(intervals) == [sum(each) for each in both]


@given(_INTERVALS, st.randoms())
def test_the_order_in_which_calls_are_known_changes_a_nanosecond_of_an_hour_at_most(
    intervals: list[Interval], random: st.randoms
) -> None:
    places = list(range(len(intervals)))
    random.shuffle(places)
    shuffled = shared([intervals[place] for place in places])
    right = shared(intervals)
    assert sum(shuffled) == sum(right)
    for place, ns in zip(places, shuffled, strict=True):
        assert (
            abs(ns - right[place]) <= 2
        )  # in each of two hours, who of equals gets what is left over


@given(_INTERVALS.filter(bool))
def test_a_share_is_the_exact_integral_but_for_rounding(intervals: list[Interval]) -> None:
    edges = sorted({edge for interval in intervals for edge in interval} | {HOUR_NS})
    exact = [Fraction(0)] * len(intervals)
    for start_ns, end_ns in itertools.pairwise(edges):
        there = [i for i, each in enumerate(intervals) if each.start_ns <= start_ns < each.end_ns]
        for place in there:
            exact[place] += Fraction(end_ns - start_ns, len(there))
    for ns, right in zip(shared(intervals), exact, strict=True):
        assert abs(ns - right) < 3  # an hour's edge and the gaps between stretches round each
