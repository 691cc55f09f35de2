"""Failures, clients that leave, and a server that is told to stop."""

import threading
from typing import Any

import openai
import pytest

from serving.server.app import Access, build_app
from tests.serving.server.asking import chat, post
from tests.serving.server.fakes import SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually, running


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_is_not_computed_for(
    client: openai.OpenAI, engine: FakeEngine, recorder: ListRecorder, stream: bool
) -> None:
    engine.hold()
    with pytest.raises(openai.APITimeoutError):
        chat(client, "abc", stream=stream, timeout=0.2)
    eventually(lambda: recorder.calls, "the record of the cancelled call")
    assert engine.open == 0
    (call,) = recorder.calls
    assert (call.error_type, str(call.finished[0].reason)) == ("cancelled", "cancelled")


def test_closing_a_stream_in_its_middle_cancels_it(
    client: openai.OpenAI, engine: FakeEngine, recorder: ListRecorder
) -> None:
    engine.hold(after_steps=1)
    with chat(client, "abc", stream=True) as stream:
        next(stream)
    eventually(lambda: recorder.calls, "the record of the cancelled call")
    assert engine.open == 0
    (call,) = recorder.calls
    assert (call.error_type, call.finished[0].output_tokens) == ("cancelled", 1)


def test_every_call_is_recorded_once_whatever_became_of_it(
    client: openai.OpenAI, engine: FakeEngine, recorder: ListRecorder
) -> None:
    chat(client, "Ends.")
    list(chat(client, "Ends.", stream=True))
    client.completions.create(model="fake-model", prompt=["a", "b"])
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError):
        chat(client, n=0)
    with pytest.raises(openai.BadRequestError):
        chat(client, "unbearable")
    engine.fails_on = "boom"
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="fake-model", prompt=["a", "boom"], max_tokens=50)
    engine.max_waiting = 1
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model="fake-model", prompt=["a", "b"], max_tokens=150)
    eventually(lambda: len(recorder.calls) == 8, "eight records")
    assert [call.error_type for call in recorder.calls] == [
        *("", "", ""),
        "model_not_found",
        "invalid_value",
        "request_refused",
        "engine_error",
        "queue_full",
    ]
    assert engine.open == 0


def test_what_is_open_when_told_to_stop_is_answered_to_the_end(
    engine: FakeEngine, recorder: ListRecorder
) -> None:
    server = RunningServer(build_app(SERVED, engine, recorder))
    answers: list[Any] = []

    def ask() -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answers.append(chat(client, "Ends."))

    engine.hold()
    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: engine.open == 1, "the request in the engine")
    server.ask_to_stop()
    engine.let_go()
    asking.join()
    server.stop()
    assert answers[0].choices[0].message.content == "xyz"
    assert [call.error_type for call in recorder.calls] == [""]


def test_what_outlasts_the_drain_is_cancelled_and_recorded(
    engine: FakeEngine, recorder: ListRecorder
) -> None:
    server = RunningServer(build_app(SERVED, engine, recorder), drain_seconds=1)
    engine.hold()

    def ask() -> None:
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.APIError),
        ):
            chat(client)

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: engine.open == 1, "the request in the engine")
    server.stop()
    asking.join()
    assert engine.open == 0
    assert [call.error_type for call in recorder.calls] == ["cancelled"]


def test_a_failing_engine_is_our_fault_and_not_the_clients(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.fails_on = "boom"
    for how in ({}, {"stream": True}):
        with pytest.raises(openai.InternalServerError, match="told to fail") as caught:
            chat(client, "boom", **how)
        assert (caught.value.status_code, caught.value.code) == (500, "engine_error")


def test_a_failure_in_mid_stream_is_told_in_the_stream(
    client: openai.OpenAI, engine: FakeEngine, recorder: ListRecorder
) -> None:
    engine.hold(after_steps=1)
    stream = chat(client, "abc", stream=True)
    next(stream)
    engine.fails_on = "abc"
    engine.let_go()
    with pytest.raises(openai.APIError, match="told to fail"):
        list(stream)
    eventually(lambda: recorder.calls, "the record")
    assert [call.error_type for call in recorder.calls] == ["engine_error"]


def test_with_a_key_set_only_who_has_it_is_answered(
    engine: FakeEngine, recorder: ListRecorder
) -> None:
    with running(build_app(SERVED, engine, recorder, Access(api_key="s3cret"))) as server:
        for key in ("wrong", "s3cre", "ß"):
            status, said = post(server.url, b"{}", Authorization=f"Bearer {key}")
            assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="s3cret") as client:
            assert chat(client, "Ends.").choices[0].message.content == "xyz"
            assert [model.id for model in client.models.list()] == ["fake-model"]
