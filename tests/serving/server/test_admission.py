"""Who is let in, and what those hear who are not."""

import json
import threading
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.request import Finished, FinishReason
from serving.server.admission import Door
from serving.server.app import build_app
from serving.server.errors import Overloaded
from tests.serving.server.asking import chat
from tests.serving.server.fakes import SERVED, FakeEngine, FakeStats, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually


def served_for(seconds: float) -> Finished:
    return Finished(
        reason=FinishReason.STOP,
        prompt_tokens=1,
        output_tokens=1,
        arrived_ns=0,
        scheduled_ns=0,
        first_token_ns=0,
        finished_ns=int(seconds * 10**9),
        device_ns=0,
        device_ns_marginal=0,
        device_ns_alone=0,
        prefix_repeated_tokens=0,
        request_repeated=False,
    )


def door(waiting: int = 0, running: int = 0, now: Any = lambda: 0.0) -> Door:
    return Door(lambda: FakeStats(running, waiting), now)


def test_who_finds_the_queue_full_hears_how_long_it_takes_at_the_pace_of_the_last_answers() -> None:
    full = door(waiting=30, running=4)
    for seconds in (1, 2, 3):
        full.finished(served_for(seconds))
    told = full.turned_away()
    assert (told.status, told.retry_after_seconds) == (429, 15)
    assert "30 requests are waiting and 4 are being answered" in told.message


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.lists(st.floats(0, 10**5), max_size=5))
def test_the_time_to_come_back_is_always_a_sensible_one(
    waiting: int, running: int, seconds: list[float]
) -> None:
    any_door = door()
    for each in seconds:
        any_door.finished(served_for(each))
    assert 1 <= any_door.seconds_until_served(waiting, running) <= 300


def test_a_door_that_closes_says_until_when_and_does_not_close_later_for_being_told_twice() -> None:
    now = [100.0]
    closing = door(now=lambda: now[0])
    closing.check()
    assert not closing.is_draining
    closing.drain(30)
    now[0] = 110.0
    closing.drain(30)
    with pytest.raises(Overloaded) as caught:
        closing.check()
    assert (caught.value.status, caught.value.retry_after_seconds) == (503, 20)
    assert not closing.drain_is_over
    now[0] = 130.0
    assert closing.drain_is_over


def test_a_server_that_drains_says_so_and_sends_new_requests_away_while_it_answers_the_old(
    engine: FakeEngine, recorder: ListRecorder
) -> None:
    server = RunningServer(build_app(SERVED, engine, recorder))
    answers: list[Any] = []
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        engine.hold()
        asking = threading.Thread(target=lambda: answers.append(chat(client, "Ends.")))
        asking.start()
        eventually(lambda: engine.open == 1, "the request in the engine")
        server.ask_to_stop()
        assert _health(server) == (503, "draining")
        with pytest.raises(openai.InternalServerError, match="shutting down") as caught:
            chat(client, "Ends.")
        assert (caught.value.status_code, caught.value.code) == (503, "draining")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 20
        engine.let_go()
        asking.join()
    server.stop()
    assert answers[0].choices[0].message.content == "xyz"
    assert sorted(call.error_type for call in recorder.calls) == ["", "draining"]


def _health(server: RunningServer) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["status"]
