"""What was asked and answered, as the page of a call shows it, whichever library sent it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.contents import Part, SpanContent, parts_of, read
from tests.collectors.bodies import NOON_NS, PROTOBUF, TRACE_ID, key_values, request, span, span_id
from tests.collectors.dialects.test_content import CALL, CONTENT, SECRET

ASKED, ANSWERED = Part("user", "Which river?"), Part("assistant", "The Loire.")
# What speaks of a call, or of the program, without being said in it.
NOT_SAID = {
    "embedding.embeddings.0.embedding.vector",
    "ai.embedding",
    "gen_ai.evaluation.explanation",
    "code.function.parameters.contents.value",
    "llm.invocation_parameters",
    "metadata",
    "llm.openai.usage",
    "metadata.usage_object",
    "metadata.requester_metadata",
    "metadata.spend_logs_metadata",
    "metadata.requester_custom_headers",
    "metadata.prompt_management_metadata",
    "metadata.mcp_tool_call_metadata",
    "hidden_params",
    "error.message",
    "error.stack_trace",
    "langfuse.observation.metadata",
    "langfuse.observation.status_message",
    "langfuse.observation.model.parameters",
    "langfuse.observation.usage_details",
    "langfuse.trace.metadata",
    "gen_ai.usage.raw",
    "logfire.msg",
    "logfire.json_schema",
    "ai.response.providerMetadata",
}


def parts(attributes: dict[str, Any], **fields: Any) -> tuple[Part, ...]:
    return parts_of(span({**CALL, **attributes}, **fields))


def messages(*said: Part, field: str = "content") -> str:
    return json.dumps([{"role": part.by, field: part.text} for part in said])


def pieces(*said: Part) -> str:
    """As the conventions write messages since 1.37."""
    return json.dumps(
        [
            {"role": part.by, "parts": [{"type": "text", "content": part.text}]}
            | ({"finish_reason": "stop"} if part.by == "assistant" else {})
            for part in said
        ]
    )


SPEAKERS: dict[str, dict[str, Any]] = {
    "the conventions": {
        "gen_ai.output.messages": pieces(ANSWERED),
        "gen_ai.input.messages": pieces(ASKED),
    },
    "OpenLLMetry": {
        "gen_ai.completion.0.finish_reason": "stop",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": ANSWERED.text,
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": ASKED.text,
    },
    "OpenInference": {
        "input.value": json.dumps({"messages": [{"role": "user", "content": ASKED.text}]}),
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": ASKED.text,
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.contents.0.message_content.text": ANSWERED.text,
        "output.value": json.dumps({"choices": [{"message": {"content": ANSWERED.text}}]}),
    },
    "Langfuse": {
        "langfuse.observation.input": messages(ASKED),
        "langfuse.observation.output": json.dumps({"role": "assistant", "content": ANSWERED.text}),
        "langfuse.trace.input": messages(ASKED),
    },
    "LiteLLM under old names and new": {
        "llm.openai.messages": messages(ASKED),
        "gen_ai.input.messages": pieces(ASKED),
        "gen_ai.output.messages": pieces(ANSWERED),
        "gen_ai.completion.0.content": ANSWERED.text,
        "gen_ai.completion.0.role": "assistant",
    },
}


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_who_said_what_is_read_from(speaker: str) -> None:
    assert parts(SPEAKERS[speaker]) == (ASKED, ANSWERED)


def test_events_of_a_span_are_read_in_their_order() -> None:
    events = [
        Span.Event(name="gen_ai.user.message", attributes=key_values({"content": ASKED.text})),
        Span.Event(name="gen_ai.choice", attributes=key_values({"message": messages(ANSWERED)})),
        Span.Event(name="exception", attributes=key_values({"exception.message": "no content"})),
    ]
    assert parts({}, events=events) == (ASKED, ANSWERED)


def test_messages_that_are_no_text_but_maps_are_read() -> None:
    message = KeyValueList(values=key_values({"role": "user", "content": ASKED.text}))
    said = span(CALL)
    field = said.attributes.add(key="gen_ai.input.messages")
    field.value.array_value.values.add(kvlist_value=message)
    assert parts_of(said) == (ASKED,)


def test_a_long_conversation_stays_in_its_order() -> None:
    said = [Part("user" if number % 2 else "assistant", f"{number}") for number in range(25)]
    attributes = {
        f"gen_ai.prompt.{number}.{name}": value
        for number, part in reversed(list(enumerate(said)))
        for name, value in (("role", part.by), ("content", part.text))
    }
    assert parts(attributes) == tuple(said)


def test_what_is_said_twice_in_a_conversation_stays_twice() -> None:
    twice = (ASKED, ANSWERED, ASKED)
    assert parts({"gen_ai.input.messages": messages(*twice)}) == twice


def test_calls_of_tools_belong_to_their_message() -> None:
    said = parts(
        {
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.tool_calls.0.name": "rivers",
            "gen_ai.completion.0.tool_calls.0.arguments": '{"country": "France"}',
        }
    )
    [(by, text)] = said
    assert by == "assistant"
    assert "rivers" in text
    assert '{"country": "France"}' in text


def test_counts_and_names_are_no_content() -> None:
    quiet = {
        **CALL,
        "llm.token_count.prompt": 7,
        "llm.usage.input": "7",
        "gen_ai.response.id": "x",
        "gen_ai.prompt_tokens": "7",
        "ai.response.model": "gpt-4o",
        "gen_ai.input.messages": "",
        "gen_ai.prompt": [],
    }
    assert parts_of(span(quiet)) == ()


@pytest.mark.parametrize("kind", CONTENT)
def test_every_attribute_with_something_said_is_known(kind: str) -> None:
    silent = {name for name, value in CONTENT[kind].items() if SECRET in str(value)} - {
        name
        for name, value in CONTENT[kind].items()
        if any(SECRET in part.text for part in parts_of(span({name: value})))
    }
    assert silent <= NOT_SAID


@pytest.mark.parametrize("content_type", [PROTOBUF, "application/json; charset=utf-8"])
def test_a_body_is_read_span_by_span(content_type: str) -> None:
    spans = [span({"gen_ai.prompt": ASKED.text}, number=1), span(CALL, number=2)]
    body = request(*spans).SerializeToString()
    if content_type != PROTOBUF:
        body = json.dumps(
            {
                "resourceSpans": [
                    {
                        "scopeSpans": [
                            {
                                "spans": [
                                    {
                                        "traceId": one.trace_id.hex(),
                                        "spanId": one.span_id.hex(),
                                        "startTimeUnixNano": str(one.start_time_unix_nano),
                                        "attributes": [
                                            {
                                                "key": pair.key,
                                                "value": {"stringValue": pair.value.string_value},
                                            }
                                            for pair in one.attributes
                                            if pair.value.string_value
                                        ],
                                    }
                                    for one in spans
                                ]
                            }
                        ]
                    }
                ]
            }
        ).encode()
    said = (Part("gen_ai.prompt", ASKED.text),)
    assert list(read(body, content_type=content_type)) == [
        SpanContent(TRACE_ID, span_id(1), NOON_NS, said)
    ]


NESTED = "[" * 100_000 + "]" * 100_000
NAMES = st.sampled_from(
    (
        "gen_ai.input.messages",
        "gen_ai.prompt.9.content",
        "gen_ai.prompt.999999.",
        "ai.prompt.tools",
        "llm.prompts.1.a.99999999999.b",
        "input.value",
        "gen_ai.prompt." + "9" * 5000 + ".content",
    )
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "parts", "text", "type", "message"]),
            inner,
            max_size=3,
        )
    ),
)


@given(st.dictionaries(NAMES, st.text() | JSONS.map(json.dumps) | st.just(NESTED), max_size=4))
def test_whatever_stands_there_is_read_as_text(attributes: dict[str, str]) -> None:
    for part in parts_of(span(attributes)):
        assert isinstance(part.by, str)
        assert isinstance(part.text, str)


@given(JSONS.filter(lambda value: value not in (None, "", [], {})))
def test_no_text_in_a_message_is_lost(content: Any) -> None:
    [part] = parts({"gen_ai.input.messages": json.dumps([{"role": "user", "content": content}])})
    assert part.by == "user"
    for text in texts_in(content):
        assert text in part.text or json.dumps(text, ensure_ascii=False) in part.text


def texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in texts_in(one)]
