"""The fake engine keeps to what the real one does; each test here runs on both."""

import itertools
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.engine.engine import Engine, EngineConfig
from serving.engine.request import (
    EngineOverloaded,
    Finished,
    FinishReason,
    Progress,
    Request,
    RequestRefused,
    SamplingParams,
)
from serving.weights import load
from tests.serving.server.fakes import FakeEngine

AnyEngine = FakeEngine | Engine
Make = Callable[..., AnyEngine]
_ids = itertools.count()


@pytest.fixture(params=["fake", "real"])
def make(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Make]:
    made: list[AnyEngine] = []

    def make(max_waiting: int = 50) -> AnyEngine:
        if request.param == "fake":
            engine: AnyEngine = FakeEngine(max_waiting=max_waiting)
        else:
            loaded = load(str(tiny_model), dtype=torch.float32, cache_dir=None)
            config = EngineConfig(max_waiting=max_waiting, max_batch_requests=4)
            engine = Engine(loaded, config)
        engine.start()
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.stop()


def test_work_between_steps_is_charged_as_long_as_it_took(make: Make) -> None:
    engine = make()
    done = engine.between_steps(lambda: time.sleep(0.02)).result(20)
    assert done.charge.device_ns >= 20_000_000
    assert engine.clock().attributed_ns == done.charge.device_ns
    engine.stop()
    with pytest.raises(EngineOverloaded, match="stopping"):
        engine.between_steps(lambda: None)


class Asked:
    """A request that was handed to an engine, and what came back."""

    def __init__(self, engine: AnyEngine, prompt: Sequence[int], **how: Any) -> None:
        self._progress: queue.Queue[Progress] = queue.Queue()
        sampling = SamplingParams(**{"max_tokens": 20, "temperature": 0, "ignore_eos": True, **how})
        self.request = Request(f"r-{next(_ids)}", prompt, sampling, time.monotonic_ns())
        engine.submit(self.request, self._progress.put)

    def first(self) -> Progress:
        return self._progress.get(timeout=20)

    def all(self) -> list[Progress]:
        found = [self.first()]
        while found[-1].finished is None:
            found.append(self.first())
        assert self._progress.empty(), "nothing comes after the last"
        return found

    def finished(self) -> Finished:
        finished = self.all()[-1].finished
        assert finished is not None
        return finished


def test_the_last_progress_alone_carries_how_it_ended(make: Make) -> None:
    asked = Asked(make(), [97, 98, 99], max_tokens=7)
    *before, last = asked.all()
    assert all(progress.finished is None for progress in before)
    assert last.finished is not None
    assert last.request_id == asked.request.request_id
    assert (last.finished.prompt_tokens, last.finished.output_tokens) == (3, 7)
    assert last.finished.reason is FinishReason.LENGTH


def test_the_times_of_a_request_are_in_their_order(make: Make) -> None:
    asked = Asked(make(), [97, 98, 99])
    finished = asked.finished()
    assert finished.scheduled_ns is not None
    assert finished.first_token_ns is not None
    times = [finished.arrived_ns, finished.scheduled_ns, finished.first_token_ns]
    assert [*times, finished.finished_ns] == sorted([*times, finished.finished_ns])
    assert finished.arrived_ns == asked.request.arrived_ns


def test_a_stop_text_ends_the_answer_and_is_not_in_it(make: Make) -> None:
    engine = make()
    whole = "".join(progress.text for progress in Asked(engine, [97, 98, 99]).all())
    stop = whole[4:6]
    asked = Asked(engine, [97, 98, 99], stop=(stop,))
    progress = asked.all()
    assert "".join(each.text for each in progress) == whole[: whole.index(stop)]
    assert progress[-1].finished is not None
    assert progress[-1].finished.reason is FinishReason.STOP


def test_a_cancelled_request_ends_as_cancelled_and_others_go_on(make: Make) -> None:
    engine = make()
    leaving = Asked(engine, [97], max_tokens=150)
    staying = Asked(engine, [98], max_tokens=5)
    engine.cancel(leaving.request.request_id)
    engine.cancel("never heard of")
    # a fast engine may have been done with it before
    assert leaving.finished().reason in (FinishReason.CANCELLED, FinishReason.LENGTH)
    assert staying.finished().reason is FinishReason.LENGTH
    engine.cancel(staying.request.request_id)


def test_a_full_queue_turns_away_and_serves_whom_it_took(make: Make) -> None:
    engine = make(max_waiting=2)
    taken: list[Asked] = []

    def fill() -> None:
        while len(taken) < 500:
            taken.append(Asked(engine, [97], max_tokens=150))

    with pytest.raises(EngineOverloaded):
        fill()
    assert all(each.finished().reason is FinishReason.LENGTH for each in taken)


def test_what_cannot_be_served_is_refused_with_a_reason(make: Make) -> None:
    engine = make()
    prompt = b"unbearable" if isinstance(engine, FakeEngine) else [10**6]
    with pytest.raises(RequestRefused, match="prompt"):
        Asked(engine, list(prompt))


def test_device_time_of_requests_sums_to_the_clock_and_the_clock_to_the_wall(make: Make) -> None:
    engine = make()
    asked = [Asked(engine, [97 + n] * n, max_tokens=3 * n) for n in range(1, 9)]
    finished = [each.finished() for each in asked]
    clock = engine.clock()
    assert sum(each.device_ns for each in finished) == clock.attributed_ns > 0
    assert clock.attributed_ns + clock.unattributed_ns + clock.idle_ns == clock.wall_ns
    assert all(each.device_ns > 0 for each in finished)


def test_stopping_ends_what_is_open_and_the_clock_can_still_be_read(make: Make) -> None:
    engine = make()
    asked = [Asked(engine, [97], max_tokens=150) for _ in range(3)]
    engine.stop()
    reasons = {each.finished().reason for each in asked}
    assert reasons <= {FinishReason.CANCELLED, FinishReason.LENGTH}
    assert engine.clock().wall_ns > 0
    engine.stop()
