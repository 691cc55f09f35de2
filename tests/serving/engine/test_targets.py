"""Whether what interactive requests are promised was kept."""

import pytest

from serving.engine.loop import StepLoop
from serving.engine.request import Finished, FinishReason, Objective
from serving.engine.targets import Kept, Targets
from tests.serving.engine.fakes import Driver, FakeClock, FakeRunner, Listener, a_loop, a_request

TARGETS = Targets(first_token_ns=1_000, inter_token_ns=100)
MET = {("interactive", "first_token", True): 1, ("interactive", "inter_token", True): 1}


def an_end(
    first_token_ns: int | None, finished_ns: int, tokens: int, reason: FinishReason
) -> Finished:
    """Of a request that arrived at 0."""
    return Finished(
        reason=reason,
        prompt_tokens=3,
        output_tokens=tokens,
        arrived_ns=0,
        scheduled_ns=first_token_ns,
        first_token_ns=first_token_ns,
        finished_ns=finished_ns,
        device_ns=0,
        device_ns_marginal=0,
        device_ns_alone=0,
        prefix_repeated_tokens=0,
        request_repeated=False,
    )


def judged(kept: Kept) -> dict[str, str]:
    return {
        target: "met" if met else "missed"
        for (_, target, met), count in kept.counts().items()
        if count
    }


STOP, CANCELLED = FinishReason.STOP, FinishReason.CANCELLED


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (an_end(1_000, 1_300, 4, STOP), {"first_token": "met", "inter_token": "met"}),
        (an_end(1_001, 1_302, 4, STOP), {"first_token": "missed", "inter_token": "missed"}),
        (an_end(500, 500, 1, STOP), {"first_token": "met"}),
        (an_end(500, 9_000, 4, CANCELLED), {"first_token": "met"}),
        (an_end(None, 1_001, 0, CANCELLED), {"first_token": "missed"}),
        (an_end(None, 900, 0, CANCELLED), {}),
    ],
    ids=["in time", "late", "one token", "left", "left after waiting too long", "left at once"],
)
def test_what_can_be_judged_is_counted_once(end: Finished, expected: dict[str, str]) -> None:
    kept = Kept(TARGETS)
    kept.observe(Objective.INTERACTIVE, end)
    assert judged(kept) == expected


def test_nothing_is_promised_to_batch_requests_and_nothing_where_there_is_no_target() -> None:
    kept, free = Kept(TARGETS), Kept(Targets())
    kept.observe(Objective.BATCH, an_end(5_000, 9_000, 4, STOP))
    free.observe(Objective.INTERACTIVE, an_end(5_000, 9_000, 4, STOP))
    assert set(kept.counts().values()) == {0}
    assert free.counts() == {}


def test_the_engine_counts_each_answer_that_ends() -> None:
    clock = FakeClock()
    loop: StepLoop = a_loop(clock, targets=Targets(10**9, 10**9))
    loop.submit(a_request(ignore_eos=True), Listener())
    driver = Driver(loop, FakeRunner(clock, 4))
    while driver.turn():
        pass
    assert {key: count for key, count in loop.kept.counts().items() if count} == MET
