"""/v1/responses through OpenAI's client."""

import asyncio
from typing import Any

import openai
import pytest

from tests.serving.server.asking import post
from tests.serving.server.fakes import FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually


def respond(client: openai.OpenAI, asked: Any = "Ends.", **how: Any) -> Any:
    return client.responses.create(model="fake-model", input=asked, **how)


def test_a_text_is_answered_with_what_it_took(client: openai.OpenAI) -> None:
    respond(client)
    answer = respond(client, instructions="Be short.", metadata={"a": "b"}, temperature=0.5)
    assert answer.id.startswith("resp_")
    assert (answer.status, answer.output_text) == ("completed", "xyz")
    assert (answer.instructions, answer.metadata) == ("Be short.", {"a": "b"})
    assert (answer.temperature, answer.top_p, answer.error) == (0.5, 1.0, None)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (15, 4)
    assert answer.usage.total_tokens == 19
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    again = respond(client, instructions="Be short.")
    assert again.usage.input_tokens_details.cached_tokens == 7


def test_items_become_the_messages_of_a_chat(client: openai.OpenAI, engine: FakeEngine) -> None:
    earlier = respond(client)
    respond(
        client,
        [
            {"role": "developer", "content": "short"},
            {"role": "user", "content": [{"type": "input_text", "text": "Ends."}]},
            *[item.model_dump() for item in earlier.output],
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "message", "role": "user", "content": "Again."},
        ],
        instructions="first",
    )
    assert bytes(engine.requests[-1].prompt_token_ids).decode().split("\n") == [
        "no tools",
        "first",
        "short",
        "Ends.",
        'xyz {"name": "f", "arguments": {"a": 1}} {"name": "g", "arguments": {}}',
        "one",
        "Again.",
    ]


def test_a_stream_tells_each_step_and_ends_with_the_whole(client: openai.OpenAI) -> None:
    events = list(respond(client, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].response.status == "in_progress"
    whole = events[-1].response
    assert (whole.output_text, whole.usage.output_tokens) == ("xyz", 4)
    assert whole.output[0].id == events[2].item.id


def test_the_clients_own_reader_of_streams_puts_the_response_together(
    client: openai.OpenAI,
) -> None:
    with client.responses.stream(model="fake-model", input="Ends.") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "xyz"


def test_the_async_client_is_answered_too(server: RunningServer) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            whole = await client.responses.create(model="fake-model", input="Ends.")
            stream = await client.responses.create(model="fake-model", input="Ends.", stream=True)
            *_, last = [event async for event in stream]
            return whole.output_text, last.response.output_text

    assert asyncio.run(ask()) == ("xyz", "xyz")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_off_is_incomplete_and_says_why(
    client: openai.OpenAI, stream: bool
) -> None:
    answer = respond(client, "abc", max_output_tokens=4, stream=stream)
    if stream:
        *_, last = answer
        assert last.type == "response.incomplete"
        answer = last.response
    assert (answer.status, answer.output_text) == ("incomplete", "defg")
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"


def test_an_answer_without_a_word_is_still_a_message(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    asked: Any = {"asked": "abc", "extra_body": {"stop": ["d"]}}
    whole = respond(client, **asked)
    *_, last = respond(client, **asked, stream=True)
    assert whole.output_text == last.response.output_text == ""
    assert [item.type for item in whole.output] == ["message"]
    assert [item.type for item in last.response.output] == ["message"]


def test_a_failure_in_mid_stream_is_told_in_the_stream(
    client: openai.OpenAI, engine: FakeEngine, recorder: ListRecorder
) -> None:
    engine.hold(after_steps=1)
    stream = respond(client, "abc", stream=True)
    next(stream)
    engine.fails_on = "abc"
    engine.let_go()
    *_, last = stream
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "server_error"
    assert "told to fail" in last.response.error.message
    eventually(lambda: recorder.calls, "the record")
    assert recorder.calls[0].error_type == "engine_error"


def test_a_failure_before_the_first_token_has_its_status(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.fails_on = "boom"
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="told to fail"):
            respond(client, "boom", stream=stream)


@pytest.mark.parametrize(
    ("how", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"extra_body": {"n": 2}}, "n"),
        ({"extra_body": {"never_heard_of": 1}}, "never_heard_of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_change_the_answer_is_refused_by_name(
    client: openai.OpenAI, how: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, **how)
    assert caught.value.param == param


def test_what_is_not_stored_is_said_with_what_to_do_instead(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send their items again as input"):
        respond(client, previous_response_id="resp_1")
    assert respond(client, store=True).store is False


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ([], "input"),
        (7, "input"),
        ([{"role": "wizard", "content": "a"}], "input[0].role"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0].type"),
        ([{"type": "reasoning", "summary": []}], "input[0].type"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0].type"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id"),
        ([{"type": "function_call_output", "output": "a"}], "input[0].call_id"),
    ],
)
def test_items_that_cannot_be_read_are_refused_with_the_place(
    client: openai.OpenAI, asked: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, asked)
    assert caught.value.param == param


def test_every_response_is_a_call_with_a_record(
    server: RunningServer, recorder: ListRecorder
) -> None:
    status, said = post(server.url, b'{"model": "fake-model", "input": "Ends."}', "/v1/responses")
    eventually(lambda: recorder.calls, "the record")
    (call,) = recorder.calls
    assert (status, said["object"]) == (200, "response")
    assert (call.operation, call.response_id, call.error_type) == ("chat", said["id"], "")
