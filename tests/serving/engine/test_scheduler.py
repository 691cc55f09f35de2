"""Who computes how much in the next step."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.accounting.work_model import PLAIN, Coefficients
from serving.engine.kv_cache import BlockPool
from serving.engine.pace import Deadline, Pace
from serving.engine.request import EngineOverloaded, Objective
from serving.engine.scheduler import Scheduler
from serving.engine.slices import RequestState
from tests.serving.engine.fakes import a_request


def a_scheduler(blocks: int = 64, **sizes: Any) -> Scheduler:
    sizes = {"max_batch_tokens": 16, "max_batch_requests": 4, "max_waiting": 8} | sizes
    return Scheduler(BlockPool(blocks, block_tokens=4, sharing=False), **sizes)


def a_state(request_id: str, prompt_tokens: int, **wishes: Any) -> RequestState:
    return RequestState(a_request(request_id, [1] * prompt_tokens, **wishes), 0, 1_000)


def step(scheduler: Scheduler) -> dict[str, int]:
    """Plan and complete a step: tokens computed by request; who was complete gets its next token."""
    slices = scheduler.plan(now_ns=0)
    for part in slices:
        scheduler.settle(part)
    states = {state.request_id: state for state in scheduler}
    for part in slices:
        if part.samples:
            states[part.request_id].token_ids.append(9)
    return {part.request_id: len(part.token_ids) for part in slices}


def test_a_long_prompt_is_cut_into_chunks_of_the_budget() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_state("long", 40))
    assert [step(scheduler) for _ in range(4)] == [
        {"long": 16},
        {"long": 16},
        {"long": 8},
        {"long": 1},
    ]


def test_an_answer_under_way_goes_on_while_a_long_prompt_is_read() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_state("chat", 3))
    step(scheduler)
    scheduler.add(a_state("document", 40))
    assert step(scheduler) == {"chat": 1, "document": 15}
    assert step(scheduler) == {"chat": 1, "document": 15}


def test_an_older_prompt_does_not_starve_a_younger_answer() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_state("document", 40))
    scheduler.add(a_state("chat", 8))
    steps = [step(scheduler) for _ in range(5)]
    assert steps[2:] == [
        {"document": 8, "chat": 8},
        {"document": 1, "chat": 1},
        {"document": 1, "chat": 1},
    ]


def test_who_came_first_is_let_in_first() -> None:
    scheduler = a_scheduler(max_batch_requests=2)
    for name in "abc":
        scheduler.add(a_state(name, 2))
    assert list(step(scheduler)) == ["a", "b"]
    assert scheduler.waiting == 1


def test_the_youngest_gives_its_blocks_back_and_comes_back_first() -> None:
    scheduler = a_scheduler(blocks=4)
    scheduler.add(a_state("old", 8))
    scheduler.add(a_state("young", 8))
    scheduler.add(a_state("newcomer", 1))
    assert step(scheduler) == {"old": 8, "young": 8}
    assert step(scheduler) == {"old": 1}  # its ninth token needs a block
    assert scheduler.preemptions == 1
    scheduler.finish(next(iter(scheduler)))
    assert step(scheduler) == {"young": 9, "newcomer": 1}  # the prompt and its first token again


def test_a_full_queue_turns_away_instead_of_growing() -> None:
    scheduler = a_scheduler(max_waiting=2, max_batch_requests=3)
    for name in "abcde":  # three of them find a place
        scheduler.add(a_state(name, 2))
    with pytest.raises(EngineOverloaded, match="5 requests are waiting already"):
        scheduler.add(a_state("f", 2))
    step(scheduler)
    with pytest.raises(EngineOverloaded, match="2 requests are waiting already"):
        scheduler.add(a_state("f", 2))


def running_of(scheduler: Scheduler) -> dict[str, int]:
    places = list(scheduler)[: scheduler.running]
    return {team: sum(each.request.team == team for each in places) for team in "ab"}


def test_a_team_that_comes_later_gets_its_part_of_the_places() -> None:
    scheduler = a_scheduler(max_batch_requests=4)
    for number in range(8):
        scheduler.add(a_state(f"a{number}", 2, team="a"))
    for _ in range(3):
        step(scheduler)
    assert running_of(scheduler) == {"a": 4, "b": 0}
    for number in range(3):
        scheduler.add(a_state(f"b{number}", 2, team="b"))
    for _ in range(3):
        step(scheduler)
    assert running_of(scheduler) == {"a": 2, "b": 2}
    before = scheduler.preemptions
    for _ in range(30):
        step(scheduler)
    assert running_of(scheduler) == {"a": 2, "b": 2}
    assert scheduler.preemptions == before == 2, "nobody takes anything back"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(4, 6),
    st.integers(0, 40),
)
def test_whoever_comes_begins_soon_beside_answers_without_an_end(
    others: list[tuple[str, int]], places: int, steps: int
) -> None:
    scheduler = a_scheduler(blocks=2048, max_batch_requests=places, max_waiting=20, max_batch_tokens=64)  # fmt: skip
    for number, (team, prompt_tokens) in enumerate(others):
        scheduler.add(a_state(f"{team}{number}", prompt_tokens, team=team))
    for _ in range(steps):
        step(scheduler)
    late = a_state("late", 3, team="d")
    scheduler.add(late)
    for _ in range(2 + sum(tokens for _, tokens in others) // 16):
        step(scheduler)
    assert late.output_tokens > 0


def test_a_chunk_reads_the_keys_of_every_token_before_it() -> None:
    scheduler = a_scheduler()
    scheduler.add(a_state("long", 20))
    first = scheduler.plan(now_ns=0)
    (second,) = scheduler.plan(now_ns=0)
    assert first[0].context_tokens == sum(range(1, 17))
    assert second.context_tokens == 17 + 18 + 19 + 20


# A step takes 1,000 ns, an answer's token 50 and the keys it reads 1 each, a prompt's token 100.
_KNOWN = Coefficients(1_000, 100, 50, 1)


def test_prompts_leave_time_for_the_next_token_of_who_reads_along() -> None:
    scheduler = a_scheduler(max_batch_tokens=64, pace=Pace(2_100, lambda: _KNOWN))
    scheduler.add(a_state("chat", 3))
    step(scheduler)
    scheduler.add(a_state("document", 40))
    assert step(scheduler) == {"chat": 1, "document": 10}  # 1,000 + 50 + 4 + 10 · 100


def test_nobody_waits_for_the_tokens_of_a_batch_answer() -> None:
    scheduler = a_scheduler(max_batch_tokens=64, pace=Pace(2_100, lambda: _KNOWN))
    scheduler.add(a_state("file", 3, objective=Objective.BATCH))
    step(scheduler)
    scheduler.add(a_state("document", 40))
    assert step(scheduler) == {"file": 1, "document": 40}


def test_a_step_is_cut_by_tokens_while_its_time_cannot_be_told() -> None:
    scheduler = a_scheduler(max_batch_tokens=64, pace=Pace(2_100, lambda: PLAIN))
    scheduler.add(a_state("chat", 3))
    step(scheduler)
    scheduler.add(a_state("document", 40))
    assert step(scheduler) == {"chat": 1, "document": 40}


@given(target_ns=st.integers(0, 20_000), prompt_tokens=st.integers(1, 120))
def test_a_target_that_cannot_be_kept_starves_nobody(target_ns: int, prompt_tokens: int) -> None:
    scheduler = a_scheduler(max_batch_tokens=64, pace=Pace(target_ns, lambda: _KNOWN))
    scheduler.add(a_state("chat", 3))
    step(scheduler)
    scheduler.add(a_state("document", prompt_tokens))
    read = 0
    while read < prompt_tokens:
        computed = step(scheduler)
        assert computed["chat"] == 1
        read += computed["document"]
        took_ns = 1_000 + 50 + 100 * computed["document"]
        assert took_ns <= target_ns or computed["document"] <= 4  # a block's worth


def test_a_first_token_at_risk_goes_before_batch_prompts_of_any_priority() -> None:
    for late, read_first in ((False, "file"), (True, "chat")):
        scheduler = a_scheduler(is_at_risk=lambda _waited, _tokens, late=late: late)
        scheduler.add(a_state("file", 40, objective=Objective.BATCH, priority=-1))
        scheduler.add(a_state("chat", 16))
        assert step(scheduler) == {read_first: 16}


def test_a_first_token_is_at_risk_when_reading_leaves_half_of_the_time_or_less() -> None:
    at_risk = Deadline(10_000, step_tokens=16, coefficients=lambda: _KNOWN)
    reading_ns = 2 * 1_000 + 20 * 100  # two steps
    assert not at_risk(10_000 - 2 * reading_ns, 20)
    assert at_risk(10_001 - 2 * reading_ns, 20)
    assert at_risk(0, 60)


wishes = st.tuples(st.integers(1, 40), st.sampled_from(Objective), st.integers(-2, 2))


@given(st.lists(wishes, max_size=8), st.sets(st.integers(0, 7)), st.integers(1, 8))
def test_nobody_at_risk_waits_for_a_batch_prompt_and_every_step_is_full(
    asked: list[tuple[int, Objective, int]], hurried: set[int], places: int
) -> None:
    # each prompt has its own length, by which is_at_risk knows it
    lengths = [8 * tokens + number for number, (tokens, _, _) in enumerate(asked)]
    late = {lengths[number] for number in hurried if number < len(asked)}
    scheduler = a_scheduler(
        1_000,
        max_batch_tokens=64,
        max_batch_requests=places,
        is_at_risk=lambda _waited, tokens: tokens in late,
    )
    for number, (_, objective, priority) in enumerate(asked):
        scheduler.add(a_state(str(number), lengths[number], objective=objective, priority=priority))
    computed = step(scheduler)
    assert bool(computed) == bool(asked)
    most = sum(sorted(lengths, reverse=True)[:places])
    assert sum(computed.values()) <= min(64, most)
    assert sum(computed.values()) == 64 or len(computed) == min(places, len(asked))
    batch = {str(place) for place, (_, kind, _) in enumerate(asked) if kind is Objective.BATCH}
    waiting_late = (
        {str(place) for place, length in enumerate(lengths) if length in late}
        - batch
        - computed.keys()
    )
    if waiting_late:
        assert not batch & computed.keys()
