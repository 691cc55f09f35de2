"""Teams that ask at the same time get equal parts, whatever they ask."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.fairness import FairShare
from serving.engine.loop import StepLoop
from serving.engine.request import FinishReason, Objective
from tests.serving.engine.fakes import (
    Driver,
    FakeClock,
    FakeRunner,
    Listener,
    a_loop,
    a_request,
)

BUDGET = 16


def served_tokens(loop: StepLoop, steps: int) -> Counter[str]:
    """Tokens that each team was given in so many steps: prompts once, answers twice. Ids begin with the team."""
    given: Counter[str] = Counter()
    driver = Driver(loop, FakeRunner(FakeClock(), 4))
    for _ in range(steps):
        driver.turn()
        for team in "ab":
            given[team] = loop.scheduler.fairness.served(team)
    return given


sizes = st.tuples(st.integers(1, 60), st.integers(1, 20))


@settings(deadline=None)
@given(sizes, sizes, st.integers(1, 4))
def test_two_teams_at_work_never_drift_apart(
    a: tuple[int, int], b: tuple[int, int], max_batch_requests: int
) -> None:
    loop = a_loop(
        FakeClock(),
        blocks=200,
        max_batch_tokens=BUDGET,
        max_batch_requests=max_batch_requests,
        max_waiting=10_000,
        sharing=False,
    )
    for team, (prompt_tokens, max_tokens) in {"a": a, "b": b}.items():
        for number in range(200):
            request = a_request(
                f"{team}{number}", [1] * prompt_tokens, max_tokens, team=team, ignore_eos=True
            )
            loop.submit(request, Listener())
    given = served_tokens(loop, steps=30)  # before any team has all of its answers
    # One request more than the other team, and a step: the bound of the paper.
    largest = max(prompt + 2 * answer for prompt, answer in (a, b))
    assert abs(given["a"] - given["b"]) <= max_batch_requests * largest + 2 * BUDGET


def test_one_team_with_many_requests_does_not_keep_another_waiting() -> None:
    loop, clock = a_loop(FakeClock(), max_batch_requests=2), FakeClock()
    flood, single = Listener(), Listener()
    for number in range(50):
        loop.submit(a_request(f"flood{number}", team="flood", ignore_eos=True), flood)
    driver = Driver(loop, FakeRunner(clock, 4))
    driver.turn()
    loop.submit(a_request("single", team="single", ignore_eos=True), single)
    for _ in range(20):
        driver.turn()
    assert single.seen["single"][-1].finished is not None


def test_a_pause_earns_no_credit() -> None:
    fairness = FairShare()
    fairness.enter("busy")
    fairness.serve("busy", prefill_tokens=1_000, decode_tokens=0)
    fairness.enter("new")
    assert fairness.served("new") == 1_000


def test_counters_of_teams_that_are_away_are_forgotten_when_they_say_nothing() -> None:
    fairness = FairShare()
    fairness.enter("stays")
    for number in range(1_000):
        fairness.enter(f"team{number}")
        fairness.leave(f"team{number}")
    assert len(fairness._served) == 1


def finish_order(loop: StepLoop, requests: list, steps: int = 300) -> list[str]:
    listener = Listener()
    for request in requests:
        loop.submit(request, listener)
    driver = Driver(loop, FakeRunner(FakeClock(), 4))
    order: list[str] = []
    for _ in range(steps):
        driver.turn()
        order += [
            name
            for name, seen in listener.seen.items()
            if seen[-1].finished is not None and name not in order
        ]
    assert {seen[-1].finished.reason for seen in listener.seen.values()} == {FinishReason.LENGTH}
    return order


def test_priority_goes_before_teams_and_somebody_waiting_before_batch() -> None:
    requests = [
        a_request("batch", objective=Objective.BATCH, ignore_eos=True),
        a_request("usual", ignore_eos=True),
        a_request("urgent", priority=-1, team="other", ignore_eos=True),
    ]
    loop = a_loop(FakeClock(), max_batch_requests=1)
    assert finish_order(loop, requests) == ["urgent", "usual", "batch"]


def test_a_batch_request_makes_room_for_whom_somebody_waits_for() -> None:
    loop, listener = a_loop(FakeClock(), max_batch_requests=2), Listener()
    driver = Driver(loop, FakeRunner(FakeClock(), 4))
    for number in range(2):
        request = a_request(
            f"batch{number}", [number + 1] * 5, 50, objective=Objective.BATCH, ignore_eos=True
        )
        loop.submit(request, listener)
    driver.turn()
    loop.submit(a_request("chat", max_tokens=2, ignore_eos=True), listener)
    for _ in range(3):
        driver.turn()
    assert listener.seen["chat"][-1].finished is not None
    while driver.turn():
        pass
    ends = [listener.seen[f"batch{number}"][-1].finished for number in range(2)]
    assert [end.reason for end in ends] == [FinishReason.LENGTH] * 2
    assert sorted(end.preemptions for end in ends) == [0, 1]
    # what it had computed was still there
    assert sum(end.waste.recomputed_tokens for end in ends) < 5
