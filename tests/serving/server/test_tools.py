"""Tools: what the model may call, and how its calls come to the client."""

import json
from dataclasses import replace
from typing import Any

import openai
import pydantic
import pytest

from serving.server.app import build_app
from tests.serving.server.asking import chat
from tests.serving.server.fakes import SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import running


def tool(name: str, **more: Any) -> Any:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def flat(name: str) -> Any:
    return {"type": "function", **tool(name)["function"]}


TOOLS = [tool("weather", description="of a city"), tool("time")]
TWO_CALLS = 'hm@weather{"city": "Bern"}@time{"city": "Rome"}'


class weather(pydantic.BaseModel):  # noqa: N801  named for the tool
    city: str


def test_calls_come_as_calls_and_what_was_said_before_them_as_text(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = TWO_CALLS
    choice = chat(client, "a", tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "hm"
    calls = [(each.id, each.type, each.function.name) for each in choice.message.tool_calls]
    assert calls == [("call_0", "function", "weather"), ("call_1", "function", "time")]
    assert json.loads(choice.message.tool_calls[1].function.arguments) == {"city": "Rome"}


def test_a_message_that_only_calls_has_no_content(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = '@time{"city": "Rome"}'
    assert chat(client, "a", tools=TOOLS).choices[0].message.content is None


def test_a_stream_brings_the_same_calls_in_pieces(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = TWO_CALLS
    whole = chat(client, "a", tools=TOOLS).choices[0].message
    chunks = [each.choices[0] for each in chat(client, "a", tools=TOOLS, stream=True)]
    pieces = [piece for chunk in chunks for piece in chunk.delta.tool_calls or []]
    begins = [piece for piece in pieces if piece.id]
    assert [(each.index, each.id, each.function.name) for each in begins] == [
        (0, "call_0", "weather"),
        (1, "call_1", "time"),
    ]
    assert all(piece.function.name is None for piece in pieces if not piece.id)
    for index, call in enumerate(whole.tool_calls):
        written = "".join(each.function.arguments for each in pieces if each.index == index)
        assert written == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "hm"


def test_the_clients_own_reader_of_streams_puts_the_calls_together(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = '@weather{"city": "Bern"}'
    with client.chat.completions.stream(
        model="fake-model",
        messages=[{"role": "user", "content": "a"}],
        tools=[openai.pydantic_function_tool(weather)],
    ) as stream:
        answer = stream.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == weather(city="Bern")


def test_an_answer_without_a_call_is_text_and_ends_as_such(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = "no idea@"
    choice = chat(client, "a", tools=TOOLS).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("no idea", "stop")
    assert choice.message.tool_calls is None


@pytest.mark.parametrize(
    ("choice", "offered", "constraint"),
    [
        (None, "weather time", None),
        ("auto", "weather time", None),
        ("none", "", None),
        ("required", "weather time", "weather time"),
        ({"type": "function", "function": {"name": "time"}}, "weather time", "time"),
    ],
    ids=["unsaid", "auto", "none", "required", "one"],
)
def test_the_choice_says_what_is_offered_and_what_must_be_called(
    client: openai.OpenAI,
    engine: FakeEngine,
    choice: Any,
    offered: str,
    constraint: str | None,
) -> None:
    chat(client, "Ends.", tools=TOOLS, **({"tool_choice": choice} if choice else {}))
    request = engine.requests[-1]
    prompt = bytes(request.prompt_token_ids).decode()
    assert prompt == (f"{offered}\nEnds." if offered else "Ends.")
    found = request.sampling.constraint
    assert (found.text if found else None) == constraint


def test_what_tools_returned_goes_back_to_the_model(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = '@weather{"city": "Bern"}'
    message = chat(client, "a", tools=TOOLS).choices[0].message
    engine.says = "rain"
    messages: Any = [
        {"role": "user", "content": "a"},
        message.model_dump(),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "wet"},
    ]
    client.chat.completions.create(model="fake-model", messages=messages, tools=TOOLS)
    assert bytes(engine.requests[-1].prompt_token_ids).decode().split("\n") == [
        "weather time",
        "a",
        ' {"name": "weather", "arguments": {"city": "Bern"}}',
        "wet",
    ]


def test_earlier_calls_are_told_to_a_model_that_may_call_no_more(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages: Any = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "noon."},
    ]
    for how in ({"tools": TOOLS, "tool_choice": "none"}, {}):
        client.chat.completions.create(model="fake-model", messages=messages, **how)
        prompt = bytes(engine.requests[-1].prompt_token_ids).decode()
        assert prompt.startswith("no tools\na\n")


def test_tools_may_be_offered_beside_a_response_format(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    how: Any = {"tools": TOOLS, "response_format": {"type": "json_object"}}
    chat(client, "Ends.", **how)
    constraint = engine.requests[-1].sampling.constraint
    assert constraint is not None
    assert constraint.text == "weather time or json"
    chat(client, "Ends.", **how, tool_choice="required")
    constraint = engine.requests[-1].sampling.constraint
    assert constraint is not None
    assert constraint.text == "weather time"


def test_a_response_has_calls_as_items(client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.says = TWO_CALLS
    how: Any = {"model": "fake-model", "input": "a", "tools": [flat("weather"), flat("time")]}
    whole = client.responses.create(**how)
    assert [item.type for item in whole.output] == ["message", "function_call", "function_call"]
    calls: Any = whole.output[1:]
    assert [(each.call_id, each.name, each.arguments) for each in calls] == [
        ("call_0", "weather", '{"city": "Bern"}'),
        ("call_1", "time", '{"city": "Rome"}'),
    ]
    with client.responses.stream(**how) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert [each.model_dump(exclude={"id", "parsed_arguments"}) for each in final.output[1:]] == [
        each.model_dump(exclude={"id"}) for each in calls
    ]
    assert final.output_text == whole.output_text == "hm"
    assert kinds.count("response.function_call_arguments.done") == 2
    assert kinds.count("response.output_item.done") == 3


@pytest.mark.parametrize("says", [TWO_CALLS, '@time{"city": "Rome"}'])
def test_log_probabilities_do_not_cut_a_streamed_call_in_two(
    client: openai.OpenAI, engine: FakeEngine, says: str
) -> None:
    engine.says = says
    how: Any = {"model": "fake-model", "input": "a", "tools": [flat("weather"), flat("time")]}
    how["include"] = ["message.output_text.logprobs"]
    whole = client.responses.create(**how)
    *_, last = client.responses.create(**how, stream=True)
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == [item.type for item in whole.output]
    for streamed, item in zip(last.response.output, whole.output, strict=True):
        if item.type == "function_call":
            assert streamed.model_dump(exclude={"id"}) == item.model_dump(exclude={"id"})
        else:
            assert [each.token for each in streamed.content[0].logprobs][:2] == ["h", "m"]


def test_a_tool_of_a_response_may_be_the_one_that_must_be_called(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    client.responses.create(
        model="fake-model",
        input="Ends.",
        tools=[flat("weather"), flat("time")],
        tool_choice={"type": "function", "name": "time"},
    )
    constraint = engine.requests[-1].sampling.constraint
    assert constraint is not None
    assert constraint.text == "time"


@pytest.mark.parametrize(
    ("how", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("a"), tool("a")]}, "tools"),
        ({"tools": [tool(f"t{n}") for n in range(129)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "some"}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
        ),
        (
            {
                "tools": TOOLS,
                "extra_body": {"structured_outputs": {"regex": "a+"}},
            },
            "tools",
        ),
    ],
)
def test_tools_that_cannot_be_called_are_refused_with_the_place(
    client: openai.OpenAI, how: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **how)
    assert caught.value.param == param


def test_a_model_that_calls_no_tools_says_so(engine: FakeEngine) -> None:
    app = build_app(replace(SERVED, tool_use=None), engine, ListRecorder())
    with (
        running(app) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="this model calls no tools"),
    ):
        chat(client, tools=TOOLS)
