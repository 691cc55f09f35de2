"""What is not answered, and what the client is told instead."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from serving.server.app import build_app
from tests.serving.server.asking import chat, post
from tests.serving.server.fakes import CONTEXT_TOKENS, SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, running


# Nothing here leaves a trace in the server, so that one is enough; what gets as far as its engine is told that it
# is full.
@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    engine = FakeEngine(max_waiting=0)
    engine.start()
    with running(build_app(SERVED, engine, ListRecorder())) as server:
        yield server
    engine.stop()


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' is not served here") as caught:
        client.completions.create(model="gpt-9", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("how", "param"),
    [
        ({"n": 0}, "n"),
        ({"extra_body": {"n": 1000}}, "n"),
        ({"extra_body": {"best_of": 2}}, "best_of"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"logprobs": 0}}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"extra_body": {"n": True}}, "n"),
        ({"extra_body": {"response_format": {"type": "xml"}}}, "response_format.type"),
        (
            {"extra_body": {"response_format": {"type": "json_schema"}}},
            "response_format.json_schema",
        ),
        ({"extra_body": {"guided_json": "{"}}, "guided_json"),
        ({"extra_body": {"guided_regex": ""}}, "guided_regex"),
        ({"extra_body": {"guided_choice": []}}, "guided_choice"),
        ({"extra_body": {"structured_outputs": {"xml": "a"}}}, "structured_outputs.xml"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "json": {}}}}, "structured_outputs"),
        ({"extra_body": {"guided_regex": "a", "guided_json": {}}}, "guided_json"),
        ({"extra_body": {"logit_bias": {"a": 1}}}, "logit_bias"),
        ({"extra_body": {"logit_bias": {"5": 101}}}, "logit_bias.5"),
        ({"extra_body": {"logit_bias": {"256": 1}}}, "logit_bias"),
        ({"extra_body": {"stop_token_ids": [256]}}, "stop_token_ids"),
        ({"extra_body": {"stop_token_ids": ["a"]}}, "stop_token_ids"),
        ({"extra_body": {"min_p": 1.1}}, "min_p"),
        ({"extra_body": {"priority": "high"}}, "priority"),
        ({"extra_body": {"service_tier": "express"}}, "service_tier"),
        ({"extra_body": {"echo": True}}, "echo"),
        ({"extra_body": {"suffix": "a"}}, "suffix"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
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
        ([{"role": "tool", "content": "a"}], "messages[0].tool_call_id"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": ""}}]}],
            "messages[0].tool_calls[0].function.name",
        ),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}],
                }
            ],
            "messages[0].tool_calls[0].function.arguments",
        ),
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


def test_a_full_queue_is_a_rate_limit_that_says_when_to_come_back(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError, match="try again in 2 s") as caught:
        chat(client)
    assert (caught.value.status_code, caught.value.code) == (429, "queue_full")
    assert caught.value.response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b"null", b"[" * 100_000], ids=lambda body: repr(body[:4])
)
def test_a_body_that_is_no_json_object_is_a_bad_request(server: RunningServer, body: bytes) -> None:
    status, said = post(server.url, body)
    assert (status, said["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model": "fake-model", "prompt": "\ud800"}',
        rb'{"model": "\uDC00", "prompt": "a"}',
        rb'{"model": "fake-model", "prompt": "a", "\ud800": 1}',
        b'{"model": "fake-model", "prompt": "\xed\xa0\x80"}',
    ],
    ids=["in the prompt", "in the model", "in a name", "in UTF-8"],
)
def test_half_a_character_is_refused(server: RunningServer, body: bytes) -> None:
    status, said = post(server.url, body)
    assert (status, said["error"]["code"]) == (400, "invalid_json")


def test_a_character_in_two_halves_is_one(server: RunningServer) -> None:
    status, said = post(server.url, rb'{"model": "\ud83d\ude00", "prompt": "a"}')
    assert (status, said["error"]["code"]) == (404, "model_not_found")


def test_a_body_over_the_limit_is_refused(server: RunningServer) -> None:
    status, said = post(server.url, b'{"prompt": "' + b"a" * 5_000_000)
    assert (status, said["error"]["code"]) == (413, "request_too_large")


def test_an_unknown_path_is_answered_in_the_same_shape(server: RunningServer) -> None:
    status, said = post(server.url, b"{}", "/v1/audio/speech")
    assert (status, said["error"]["code"]) == (404, "unknown_url")
    status, said = post(server.url, b"{}", "/v1/models")
    assert status == 405
