"""The API as its users meet it: through OpenAI's own client, on a real port."""

import asyncio
import json
import threading
import urllib.request
from typing import Any

import openai
import pytest

from serving.server.app import Access, build_app
from tests.serving.server.fakes import CONTEXT_TOKENS, SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually, running


def chat(client: openai.OpenAI, text: str = "abc", **how: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="fake-model", messages=messages, **how)


# Answers


def test_a_chat_is_answered_with_what_it_took(client: openai.OpenAI) -> None:
    answer = chat(client, "abc", max_tokens=4)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "fake-model"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "defg"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
    }


def test_an_answer_that_ends_by_itself_says_so(client: openai.OpenAI) -> None:
    answer = chat(client, "Ends.")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("xyz", "stop")


def test_a_stream_gives_the_same_text_and_usage_as_the_whole(client: openai.OpenAI) -> None:
    whole = chat(client, "abc", max_tokens=5)
    stream = chat(client, max_tokens=5, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks[:-1]) == "defgh"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 4 + ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_ends_with_the_finish_reason(client: openai.OpenAI) -> None:
    chunks = list(chat(client, max_tokens=2, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "length"]


def test_the_async_client_is_answered_too(server: RunningServer) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [
                client.completions.create(model="fake-model", prompt=prompt, max_tokens=3)
                for prompt in ("a", "k", "x")
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == ["bcd", "lmn", "yza"]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("abc", ["def"]),
        (["abc", "x"], ["def", "yza"]),
        ([97, 98, 99], ["def"]),
        ([[97], [98, 99]], ["bcd", "def"]),
    ],
    ids=["a text", "texts", "token ids", "lists of token ids"],
)
def test_a_completion_takes_each_form_of_prompt(
    client: openai.OpenAI, prompt: Any, texts: list[str]
) -> None:
    answer = client.completions.create(model="fake-model", prompt=prompt, max_tokens=3)
    assert answer.id.startswith("cmpl-")
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(len(texts)))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * len(texts)


def test_a_stream_of_several_prompts_keeps_them_apart(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="fake-model", prompt=["a", "k"], max_tokens=3, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "bcd", 1: "lmn"}


def test_what_is_asked_of_sampling_reaches_the_engine(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    chat(
        client,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=11,
        stop=["!", "?"],
        user="u-1",
        metadata={"a": "b"},
        store=False,
        n=1,
        frequency_penalty=0,
        extra_body={"top_k": 5, "ignore_eos": True},
    )
    sampling = engine.requests[-1].sampling
    assert sampling.max_tokens == 7
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
    assert (sampling.seed, sampling.stop, sampling.ignore_eos) == (11, ("!", "?"), True)


def test_without_max_tokens_a_chat_may_fill_the_context_and_a_completion_has_16(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    chat(client, "Ends.")
    assert engine.requests[-1].sampling.max_tokens == CONTEXT_TOKENS - len("Ends.")
    client.completions.create(model="fake-model", prompt="Ends.")
    assert engine.requests[-1].sampling.max_tokens == 16


def test_messages_may_come_in_parts_and_earlier_answers_as_they_were_given(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    earlier = chat(client, "Ends.").choices[0].message
    client.chat.completions.create(
        model="fake-model",
        messages=[
            {"role": "developer", "content": "short"},
            {"role": "user", "content": [{"type": "text", "text": "Ends."}]},
            earlier.model_dump(),
            {"role": "user", "content": "Again."},
        ],
    )
    assert bytes(engine.requests[-1].prompt_token_ids) == b"short\nEnds.\nxyz\nAgain."


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake-model"]
    assert client.models.retrieve("fake-model").id == "fake-model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/another")


def test_health_says_ok_and_how_many_spans_are_under_way(
    client: openai.OpenAI, server: RunningServer
) -> None:
    chat(client, "Ends.")
    with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
        said = json.load(answer)
    assert said["status"] == "ok"
    assert said["spans"] == {"recorded": 1, "sent": 0, "lost": 0}


# Refusals


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served here") as caught:
        client.completions.create(model="gpt-9", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("how", "param"),
    [
        ({"n": 2}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"extra_body": {"never_heard_of": 1}}, "never_heard_of"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"max_tokens": True}}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_change_the_answer_is_refused_by_name(
    client: openai.OpenAI, how: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=param) as caught:
        chat(client, **how)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("abc", "messages"),
        ([{"role": "wizard", "content": "a"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "assistant", "content": "a"}], "messages"),
    ],
)
def test_messages_that_cannot_be_read_are_refused_with_the_place(
    client: openai.OpenAI, messages: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake-model", messages=messages)
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", [[], [256], [-1], [[1], "a", []], {}, "", [1.5]])
def test_prompts_that_cannot_be_read_are_refused(client: openai.OpenAI, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.completions.create(model="fake-model", prompt=prompt)


def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 200") as caught:
        chat(client, "a" * CONTEXT_TOKENS)
    assert caught.value.code == "context_length_exceeded"


def test_what_the_engine_refuses_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unbearable"):
        chat(client, "unbearable")


def test_a_full_engine_asks_to_come_back(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.max_waiting = 0
    with pytest.raises(openai.InternalServerError, match="try again later") as caught:
        chat(client)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "2"


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
    stream = chat(client, "abc", stream=True, extra_body={"ignore_eos": True}, max_tokens=150)
    next(stream)
    engine.fails_on = "abc"
    with pytest.raises(openai.APIError, match="told to fail"):
        list(stream)
    eventually(lambda: recorder.calls, "the record")
    assert [call.error_type for call in recorder.calls] == ["engine_error"]


def post(url: str, body: bytes, path: str = "/v1/completions") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b"null", b"[" * 100_000], ids=lambda body: repr(body[:4])
)
def test_a_body_that_is_no_json_object_is_a_bad_request(server: RunningServer, body: bytes) -> None:
    status, said = post(server.url, body)
    assert (status, said["error"]["code"]) == (400, "invalid_json")


def test_half_a_character_is_refused(server: RunningServer) -> None:
    status, said = post(server.url, rb'{"model": "fake-model", "prompt": "\ud800"}')
    assert (status, said["error"]["param"]) == (400, "prompt")


def test_a_body_over_the_limit_is_refused_and_nothing_computed(
    server: RunningServer, engine: FakeEngine
) -> None:
    status, said = post(server.url, b'{"prompt": "' + b"a" * 5_000_000)
    assert (status, said["error"]["code"]) == (413, "request_too_large")
    assert engine.requests == []


def test_an_unknown_path_is_answered_in_the_same_shape(server: RunningServer) -> None:
    status, said = post(server.url, b"{}", "/v1/embeddings")
    assert (status, said["error"]["code"]) == (404, "unknown_url")
    status, said = post(server.url, b"{}", "/v1/models")
    assert status == 405


def test_with_a_key_set_only_who_has_it_is_answered(
    engine: FakeEngine, recorder: ListRecorder
) -> None:
    with running(build_app(SERVED, engine, recorder, Access(api_key="s3cret"))) as server:
        for key in ("wrong", "s3cre", "ß"):
            status, said = _post_with_key(server.url, key)
            assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="s3cret") as client:
            assert chat(client, "Ends.").choices[0].message.content == "xyz"
            assert [model.id for model in client.models.list()] == ["fake-model"]


def _post_with_key(url: str, key: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/completions", b"{}", headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as error:
        return error.code, json.load(error)


# Comings and goings


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
    with chat(client, "abc", stream=True) as stream:
        next(stream)
        engine.hold()
    eventually(lambda: recorder.calls, "the record of the cancelled call")
    assert engine.open == 0
    assert recorder.calls[0].error_type in ("cancelled", "")  # all 197 tokens may have been written


def test_every_call_is_recorded_once_whatever_became_of_it(
    client: openai.OpenAI, engine: FakeEngine, recorder: ListRecorder
) -> None:
    chat(client, "Ends.")
    list(chat(client, "Ends.", stream=True))
    client.completions.create(model="fake-model", prompt=["a", "b"])
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError):
        chat(client, n=2)
    with pytest.raises(openai.BadRequestError):
        chat(client, "unbearable")
    engine.fails_on = "boom"
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="fake-model", prompt=["a", "boom"], max_tokens=50)
    engine.max_waiting = 1
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model="fake-model", prompt=["a", "b"], max_tokens=150)
    eventually(lambda: len(recorder.calls) == 8, "eight records")
    assert [call.error_type for call in recorder.calls] == [
        *("", "", ""),
        "model_not_found",
        "unsupported_parameter",
        "request_refused",
        "engine_error",
        "overloaded",
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
