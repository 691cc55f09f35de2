"""What a client sees, and what a request is charged, whatever the schedule."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.accounting.neighbours import Use
from serving.engine.loop import StepLoop
from serving.engine.request import (
    EngineOverloaded,
    FinishReason,
    Objective,
    Request,
    RequestRefused,
)
from serving.engine.scheduler import Propose, no_drafts
from serving.engine.slices import RequestState
from serving.engine.speculate import DeviceDrafts
from tests.serving.engine.fakes import (
    EOS,
    Driver,
    FakeClock,
    FakeRunner,
    Listener,
    a_loop,
    a_request,
    deliver,
    deliver_step,
    next_token,
)

BLOCK_TOKENS = 4


def answer(prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """What the fake model says, by its rule alone."""
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


class Bench:
    """A loop with a runner, a clock and one listener."""

    def __init__(self, *, overlaps: bool = False, **sizes: Any) -> None:
        self.clock = FakeClock()
        self.loop: StepLoop = a_loop(self.clock, block_tokens=BLOCK_TOKENS, **sizes)
        self.runner = FakeRunner(self.clock, BLOCK_TOKENS)
        self.driver = Driver(self.loop, self.runner, overlaps)
        self.listener = Listener()
        self.idle_ns = self.wall_ns = self.errands_ns = 0

    def submit(self, request: Request) -> None:
        self.loop.submit(request, self.listener)

    def run(self) -> None:
        while self.driver.turn():
            pass

    def cancel(self, request_id: str) -> None:
        deliver(self.loop.cancel(request_id))

    def charged_ns(self) -> int:
        """Over everybody, finished or not."""
        finished = [seen[-1].finished for seen in self.listener.seen.values()]
        gone = sum(end.device_ns for end in finished if end is not None)
        return gone + self.loop.unfinished_device_ns + self.errands_ns

    def check(self) -> None:
        self.loop.scheduler.pool.check_integrity()
        clocks = self.loop.clocks()
        for clock in clocks:
            assert clock.attributed_ns + clock.unattributed_ns + clock.idle_ns == clock.wall_ns
        assert sum(clock.attributed_ns for clock in clocks) == self.charged_ns()
        assert clocks[0].idle_ns >= self.idle_ns
        assert clocks[0].wall_ns >= self.wall_ns
        self.idle_ns, self.wall_ns = clocks[0].idle_ns, clocks[0].wall_ns


# few different tokens, so that many prompts begin alike
prompts = st.lists(st.integers(1, 2), min_size=1, max_size=30).map(tuple)
moves = st.lists(
    st.tuples(
        st.just("submit"),
        prompts,
        st.integers(1, 30),
        st.sampled_from("ab"),
        st.sampled_from(Objective),
    )
    | st.tuples(st.just("cancel"), st.integers(0, 12))
    | st.tuples(st.just("fail"))
    | st.tuples(st.just("step"), st.integers(1, 5))
    | st.tuples(st.just("errand"), st.integers(0, 10_000))
    | st.tuples(st.just("wait"), st.integers(0, 10_000) | st.just(1_000_000_000)),
    max_size=40,
)


def guess(state: RequestState) -> Sequence[int]:
    """Drafts that are often right and often wrong."""
    right = next_token(state.token_ids)
    return (right, next_token([*state.token_ids, right]), len(state.token_ids) % 5)


@settings(max_examples=300, deadline=None)
@given(
    moves,
    st.integers(12, 24),
    st.integers(4, 20),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([no_drafts, guess, DeviceDrafts(3)]),
    st.integers(1, 3),
    st.sampled_from([(), (Use(0.0, 2),), (Use(None, 1), Use(0.000_000_3, 1))]),
)
def test_no_request_block_or_nanosecond_is_lost_under_any_schedule(
    moves: list[tuple],
    blocks: int,
    max_batch_tokens: int,
    max_batch_requests: int,
    overlaps: bool,
    sharing: bool,
    propose: Propose,
    devices: int,
    uses: Sequence[Use],
) -> None:
    bench = Bench(
        overlaps=overlaps,
        blocks=blocks,
        max_batch_tokens=max_batch_tokens,
        max_batch_requests=max_batch_requests,
        max_waiting=5,
        sharing=sharing,
        propose=propose,
        devices=devices,
        who_else=lambda: uses,
    )
    asked: dict[str, Request] = {}
    for number, (move, *arguments) in enumerate(moves):
        if move == "submit":
            prompt, max_tokens, team, objective = arguments
            request = a_request(f"r{number}", prompt, max_tokens, team=team, objective=objective)
            try:
                bench.submit(request)
                asked[request.request_id] = request
            except EngineOverloaded:
                assert bench.loop.scheduler.waiting == 5
        elif move == "cancel" and asked:
            bench.cancel(sorted(asked)[arguments[0] % len(asked)])
        elif move == "fail":
            bench.driver.fail()
        elif move == "step":
            for _ in range(arguments[0]):
                bench.driver.turn()
        elif move == "errand":
            bench.errands_ns += bench.driver.errand(arguments[0])
        elif move == "wait":
            bench.clock.ns += arguments[0]
        bench.check()
    bench.run()
    bench.check()
    assert bench.loop.scheduler.pool.used_blocks == 0
    assert bench.loop.clocks()[0].wall_ns == bench.clock.ns - 1_000
    _check_answers(bench, asked)


def _check_answers(bench: Bench, asked: dict[str, Request]) -> None:
    """Everybody got one end, and the right tokens up to it: preempted or not, beside whomever."""
    assert bench.listener.seen.keys() == asked.keys()
    for request_id, request in asked.items():
        seen = bench.listener.seen[request_id]
        assert [progress.finished is not None for progress in seen] == [False] * (len(seen) - 1) + [
            True
        ]
        room = bench.loop.scheduler.pool.capacity_tokens - len(request.prompt_token_ids)
        most = min(request.sampling.max_tokens, room)
        right = answer(tuple(request.prompt_token_ids), most)
        tokens = bench.listener.tokens(request_id)
        assert tokens == right[: len(tokens)]
        if seen[-1].finished.reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert tokens == right


def test_a_preempted_request_loses_time_and_no_token() -> None:
    bench = Bench(blocks=8)
    prompts = {name: (place, 5, 9) for place, name in enumerate("abcd", start=1)}
    for name, prompt in prompts.items():
        bench.submit(a_request(name, prompt, max_tokens=12, ignore_eos=True))
    while deliver_step(bench.loop, bench.runner):
        bench.check()
    assert bench.loop.scheduler.preemptions > 0
    for name, prompt in prompts.items():
        tokens = list(prompt)
        for _ in range(12):
            tokens.append(next_token(tokens))
        assert bench.listener.tokens(name) == tokens[3:]


def test_a_failed_step_is_charged_to_who_was_in_it() -> None:
    bench = Bench()
    bench.submit(a_request())
    bench.driver.fail()
    end = bench.listener.seen["r"][-1].finished
    assert (end.reason, end.error, end.device_ns) == (FinishReason.ERROR, "out of memory", 123)


class Refuses:
    """A constraint that takes no token, though it allows all."""

    is_over = False

    def mask(self) -> None:
        return None

    def accept(self, token_id: int) -> None:
        raise ValueError(f"token {token_id} is not allowed")


def test_an_answer_that_cannot_go_on_ends_alone_and_pays_for_itself() -> None:
    bench = Bench(overlaps=True)
    bench.loop.submit(a_request("astray"), bench.listener, Refuses())
    bench.submit(a_request("beside"))
    bench.run()
    astray, beside = (bench.listener.seen[name][-1].finished for name in ("astray", "beside"))
    assert (astray.reason, beside.reason) == (FinishReason.ERROR, FinishReason.LENGTH)
    assert "is not allowed" in astray.error
    assert bench.listener.tokens("beside") == answer((5, 6, 7), 8)
    assert astray.device_ns > 0
    bench.check()


def test_nobody_finds_what_a_failed_step_should_have_computed() -> None:
    bench = Bench(max_batch_tokens=64)
    prompt = tuple(range(1, 21))
    bench.submit(a_request("fails", prompt))
    bench.driver.fail()
    bench.submit(a_request("again", prompt))
    bench.run()
    assert bench.listener.tokens("again") == answer(prompt, 8)


def test_a_prompt_that_another_request_has_computed_costs_its_last_tokens_only() -> None:
    bench = Bench()
    prompt = tuple(range(1, 21))
    for name in ("first", "again"):
        bench.submit(a_request(name, prompt, max_tokens=1))
        bench.run()
    first, again = (bench.listener.seen[name][-1].finished for name in ("first", "again"))
    assert (first.cached_tokens, again.cached_tokens) == (0, 16)
    assert again.device_ns == 1_000 + 10 * 4
    totals = bench.loop.totals
    assert (totals.prefix_queried_tokens, totals.prefix_hit_tokens) == (40, 16)
    assert (totals.prompt_tokens, totals.generated_tokens) == (40, 2)
    assert totals.cached_prompt_tokens == 16


def test_requests_that_begin_alike_and_come_together_compute_their_prefix_once() -> None:
    bench = Bench(max_batch_tokens=64)
    prefix = tuple(range(1, 17))
    for last in (1, 2, 3):
        bench.submit(a_request(f"r{last}", (*prefix, last), max_tokens=1))
    bench.run()
    cached = [seen[-1].finished.cached_tokens for seen in bench.listener.seen.values()]
    assert cached == [0, 16, 16]


def test_what_was_computed_for_nothing_is_charged_and_named() -> None:
    bench = Bench(overlaps=True, blocks=8)
    for place, name in enumerate("abcd", start=1):
        bench.submit(a_request(name, (place, 5, 9), max_tokens=12, ignore_eos=True))
    bench.run()
    ends = {name: bench.listener.seen[name][-1].finished for name in "abcd"}
    assert sum(end.preemptions for end in ends.values()) == bench.loop.scheduler.preemptions > 0
    for end in ends.values():
        assert (end.waste.recomputed_tokens > 0) == (end.waste.device_ns > 0)
        assert end.waste.device_ns < end.device_ns


def test_a_token_computed_behind_the_end_is_overrun() -> None:
    prompt = next(p for p in itertools.product(range(1, 20), repeat=3) if len(answer(p, 9)) == 5)
    ends = {}
    for overlaps in (False, True):
        bench = Bench(overlaps=overlaps)
        bench.submit(a_request("ends", prompt, max_tokens=9))
        bench.run()
        ends[overlaps] = bench.listener.seen["ends"][-1].finished
        assert bench.listener.tokens("ends") == answer(prompt, 9)
        assert ends[overlaps].device_ns == bench.loop.clocks()[0].attributed_ns
    assert [ends[overlaps].waste.overrun_tokens for overlaps in (False, True)] == [0, 1]
    assert ends[True].waste.device_ns == ends[True].device_ns - ends[False].device_ns == 1_010


def test_drafts_that_are_right_save_steps_and_those_that_are_wrong_are_waste() -> None:
    bench = Bench(propose=guess)
    bench.submit(a_request(max_tokens=12, ignore_eos=True))
    bench.run()
    end = bench.listener.seen["r"][-1].finished
    right = [5, 6, 7]
    for _ in range(12):
        right.append(next_token(right))
    assert bench.listener.tokens("r") == right[3:]
    assert bench.loop.totals.steps < 8
    assert end.draft_tokens == end.accepted_draft_tokens + end.waste.rejected_draft_tokens
    assert end.accepted_draft_tokens >= 6


def test_a_draft_that_is_right_behind_the_end_is_waste() -> None:
    prompt = next(p for p in itertools.product(range(1, 20), repeat=3) if len(answer(p, 9)) == 5)
    bench = Bench(propose=guess)
    bench.submit(a_request(prompt=prompt, max_tokens=40))
    bench.run()
    end = bench.listener.seen["r"][-1].finished
    # One token after the prompt, three of the next step, and the end: what was drafted behind it is none.
    assert (end.output_tokens, end.draft_tokens, end.accepted_draft_tokens) == (5, 6, 2)
    assert end.waste.rejected_draft_tokens == 4
    assert bench.loop.totals.accepted_draft_tokens == 2


def test_the_clock_does_not_run_on_while_a_step_is_not_settled() -> None:
    bench = Bench()
    bench.submit(a_request())
    bench.clock.ns += 500
    step = bench.loop.begin_step()
    bench.clock.ns += 900
    assert bench.loop.clocks()[0].wall_ns == 500
    assert step is not None
    bench.loop.settle_step(step, bench.runner.run(step.slices))
    bench.check()


def test_work_between_steps_is_charged_what_it_took_and_teaches_nothing_about_steps() -> None:
    bench = Bench(overlaps=True)
    bench.submit(a_request())
    bench.driver.turn()
    bench.clock.ns += 40
    before = bench.loop.clocks()[0].attributed_ns
    step_ns = 1_000 + 10 * 3
    assert bench.driver.errand(5_000) == 5_000
    assert bench.loop.clocks()[0].attributed_ns == before + step_ns + 5_000
    bench.run()
    assert bench.listener.tokens("r") == answer((5, 6, 7), 8)


def test_a_request_beside_another_program_pays_for_our_turns_and_says_so() -> None:
    bench = Bench(who_else=lambda: [Use(0.0, 1)])
    bench.submit(a_request("alone", max_tokens=2))
    bench.run()
    bench.clock.ns += 1_000_000_000
    bench.submit(a_request("beside", max_tokens=2))
    bench.run()
    alone, beside = (bench.listener.seen[name][-1].finished for name in ("alone", "beside"))
    assert (alone.on_shared_device, beside.on_shared_device) == (False, True)
    assert beside.device_ns == alone.device_ns // 2
    bench.check()


def test_a_device_that_claims_more_time_than_passed_is_not_believed() -> None:
    bench = Bench()
    bench.submit(a_request())
    step = bench.loop.begin_step()
    assert step is not None
    result = bench.runner.run(step.slices)
    bench.clock.ns = step.began_ns + 10
    bench.loop.settle_step(step, result)
    assert bench.loop.clocks()[0].attributed_ns == 10
    assert bench.loop.clocks()[0].idle_ns == 0


def test_times_on_the_way_are_in_order() -> None:
    bench = Bench()
    bench.submit(a_request(max_tokens=3))
    bench.run()
    end = bench.listener.seen["r"][-1].finished
    assert end is not None
    assert end.arrived_ns < end.scheduled_ns < end.first_token_ns < end.finished_ns
    assert (end.prompt_tokens, end.output_tokens) == (3, 3)
    assert end.reason == FinishReason.LENGTH


def test_an_end_of_sequence_token_is_counted_and_not_shown() -> None:
    bench = Bench()
    prompts = itertools.product(range(1, 20), repeat=3)
    prompt = next(prompt for prompt in prompts if len(answer(prompt, 9)) == 5)
    bench.submit(a_request("ends", prompt, max_tokens=9))
    bench.submit(a_request("goes on", prompt, max_tokens=9, ignore_eos=True))
    bench.run()
    ends = bench.listener.seen["ends"][-1].finished
    assert (ends.reason, ends.output_tokens) == (FinishReason.STOP, 5)
    assert len(bench.listener.text("ends")) == 4
    assert bench.listener.seen["goes on"][-1].finished.output_tokens == 9


def test_an_answer_ends_where_the_context_is_full() -> None:
    bench = Bench(context_tokens=10)
    bench.submit(a_request(prompt=[5, 6, 7], max_tokens=50, ignore_eos=True))
    bench.run()
    end = bench.listener.seen["r"][-1].finished
    assert (end.reason, end.output_tokens) == (FinishReason.LENGTH, 7)


def test_a_cancelled_request_ends_with_what_it_cost_so_far() -> None:
    bench = Bench()
    bench.submit(a_request(ignore_eos=True))
    deliver_step(bench.loop, bench.runner)
    bench.cancel("r")
    bench.cancel("r")
    end = bench.listener.seen["r"][-1].finished
    assert end.reason == FinishReason.CANCELLED
    assert end.device_ns == bench.loop.clocks()[0].attributed_ns > 0


def test_a_repeated_prefix_and_a_repeated_request_are_noticed() -> None:
    bench = Bench()
    prompt = tuple(range(1, 41))
    for name, tokens in (("first", prompt), ("again", prompt), ("longer", (*prompt, 3))):
        bench.submit(a_request(name, tokens))
        bench.run()
    ends = {name: seen[-1].finished for name, seen in bench.listener.seen.items()}
    assert {name: end.prefix_repeated_tokens for name, end in ends.items()} == {
        "first": 0,
        "again": 32,
        "longer": 32,
    }
    assert {name: end.request_repeated for name, end in ends.items()} == {
        "first": False,
        "again": True,
        "longer": False,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1] * 200}, "has 200 tokens; prompt and answer have room for 200"),
        ({"prompt": [1_000]}, "the model knows 0 to 999"),
        ({"max_tokens": 0}, "max_tokens=0: expected at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0: expected above 0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"stop": ("",)}, "texts that are not empty"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_reason(wrong: dict, message: str) -> None:
    bench = Bench()
    with pytest.raises(RequestRefused, match=message):
        bench.submit(a_request(**wrong))
    assert len(bench.loop.scheduler) == 0


def test_an_id_is_not_used_twice_at_a_time() -> None:
    bench = Bench()
    bench.submit(a_request())
    with pytest.raises(RequestRefused, match="under way already"):
        bench.submit(a_request())
