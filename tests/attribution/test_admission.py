"""How much is taken at once, and how fast from one key."""

import queue
import threading
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costwatch.attribution.admission import Full, Rate, Rates, Room

KEY, OTHER = 1, 2


def test_who_finds_all_places_taken_and_may_not_wait_is_sent_away_at_once() -> None:
    room = Room(at_work=2, waiting=0, wait_seconds=60)
    with ExitStack() as work:
        for _ in range(2):
            work.enter_context(room.place())
        with pytest.raises(Full), room.place():
            pass
    with room.place():
        pass


def test_of_two_who_come_to_a_full_room_one_waits_and_gets_in_and_one_is_sent_away() -> None:
    room = Room(at_work=1, waiting=1, wait_seconds=60)
    became: queue.Queue[str] = queue.Queue()

    def come() -> None:
        try:
            with room.place():
                became.put("got in")
        except Full:
            became.put("sent away")

    both = [threading.Thread(target=come) for _ in range(2)]
    with room.place():
        for one in both:
            one.start()
        assert became.get(timeout=60) == "sent away"
        assert became.empty()
    assert became.get(timeout=60) == "got in"
    for one in both:
        one.join()


def test_who_has_waited_too_long_is_sent_away() -> None:
    room = Room(at_work=1, waiting=1, wait_seconds=0.01)
    with room.place(), pytest.raises(Full), room.place():
        pass


def test_work_that_fails_leaves_its_place() -> None:
    room = Room(at_work=1, waiting=0, wait_seconds=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad body"), room.place():
            raise ValueError("bad body")


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_no_key_gets_more_requests_in_than_its_rate_and_two_seconds_worth(
    pauses: list[float], per_second: int
) -> None:
    rates, rate = Rates(), Rate(requests_per_second=per_second, bytes_per_second=None)
    now, admitted = 100.0, 0
    for pause in pauses:
        now += pause
        admitted += rates.admit(KEY, rate, now) == 0.0
    assert admitted <= per_second * (sum(pauses) + 2.0) + 1e-6


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=40), st.integers(1, 10_000))
def test_who_comes_again_when_told_to_is_let_in(sizes: list[int], per_second: int) -> None:
    rates, rate = Rates(), Rate(requests_per_second=5, bytes_per_second=per_second)
    now = 100.0
    for size in sizes:
        wait_seconds = rates.admit(KEY, rate, now)
        if wait_seconds:
            now += wait_seconds + 1e-6
            assert rates.admit(KEY, rate, now) == 0.0
        rates.owe(KEY, size)
    assert sum(sizes[:-1]) <= per_second * (now - 100.0 + 2.0) + max(sizes)


def test_a_key_without_limits_and_another_key_are_never_held_up() -> None:
    rates = Rates()
    for _ in range(1000):
        assert rates.admit(KEY, Rate(None, None), 100.0) == 0.0
        rates.owe(KEY, 10**12)
    tight = Rate(requests_per_second=1, bytes_per_second=1)
    assert rates.admit(OTHER, tight, 100.0) == 0.0


def test_who_was_silent_for_long_has_saved_up_no_more_than_two_seconds_worth() -> None:
    rates, rate = Rates(), Rate(requests_per_second=2, bytes_per_second=None)
    rates.admit(KEY, rate, 100.0)
    assert [rates.admit(KEY, rate, 5000.0) for _ in range(5)] == [0.0] * 4 + [0.5]


def test_a_clock_that_stands_still_lets_nothing_in() -> None:
    rates, rate = Rates(), Rate(requests_per_second=1, bytes_per_second=None)
    assert [rates.admit(KEY, rate, 100.0) for _ in range(4)] == [0.0, 0.0, 1.0, 1.0]


def test_what_was_sent_under_another_limit_is_not_owed_under_this_one() -> None:
    rates, generous, tight = Rates(), Rate(None, 10_000), Rate(1, 1)
    for _ in range(100):
        assert rates.admit(KEY, generous, 0.0) == 0.0
        rates.owe(KEY, 100)
    assert rates.admit(KEY, tight, 0.0) == 0.0
    rates.owe(KEY, 5)
    assert rates.admit(KEY, tight, 0.0) > 0.0
    assert rates.admit(KEY, generous, 0.0) == 0.0
    assert rates.pop_held_up(KEY) == 1
