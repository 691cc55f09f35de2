"""No JSON that anybody may send is our fault: it is read, or refused with what is wrong with it."""

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.request import SamplingParams
from serving.server import prompts
from serving.server.errors import BadRequest
from serving.server.parameters import GENERATION, HARMLESS, ONLY_DEFAULT
from serving.server.response_request import read_response
from serving.server.schemas import parse_object, read_chat, read_completion
from tests.serving.server.asking import post
from tests.serving.server.fakes import SERVED
from tests.serving.server.serving_here import RunningServer

Read = Callable[[Mapping[str, Any]], Any]

NAMES = sorted(
    GENERATION
    | HARMLESS
    | set(ONLY_DEFAULT)
    | {"messages", "prompt", "input", "text", "include", "instructions", "logprobs"}
    | {"top_logprobs", "max_completion_tokens", "max_output_tokens", "previous_response_id"}
)
INNER = sorted(
    {"role", "content", "type", "text", "tool_calls", "id", "function", "name", "arguments"}
    | {"parameters", "schema", "json_schema", "format", "json", "regex", "choice", "strict"}
    | {"include_usage", "call_id", "output", "tool_call_id", "description"}
)
WORDS = (
    *("user", "assistant", "tool", "system", "function", "message", "input_text", "auto"),
    *("required", "json_schema", "json_object", "function_call", "function_call_output"),
    *("none", "", "{", '{"a": 1}', "f"),
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(NAMES), values, max_size=6)


@pytest.mark.parametrize("read", [read_chat, read_completion, read_response])
@settings(max_examples=300)
@given(body=bodies)
def test_a_body_is_read_or_refused(read: Read, body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequest):
        read(body)


CHAT: dict[str, Any] = {"model": "fake-model", "messages": [{"role": "user", "content": "a"}]}
COMPLETION: dict[str, Any] = {"model": "fake-model", "prompt": "a"}
RESPONSE: dict[str, Any] = {"model": "fake-model", "input": "a"}


@pytest.mark.parametrize(
    ("read", "good"),
    [(read_chat, CHAT), (read_completion, COMPLETION), (read_response, RESPONSE)],
)
@settings(max_examples=300)
@given(name=st.sampled_from(NAMES), value=values)
def test_what_one_field_does_to_a_good_body_is_told_by_its_name(
    read: Read, good: dict[str, Any], name: str, value: Any
) -> None:
    refusal = _refusal(read, {**good, name: value})
    if refusal is not None:
        param = refusal.param or ""
        assert name in ("stream_options", param.partition(".")[0].partition("[")[0])
        json.dumps(refusal.body(), ensure_ascii=False).encode()


def _refusal(read: Read, body: dict[str, Any]) -> BadRequest | None:
    try:
        asked = read(body)
        assert all(prompts.encode(asked, SERVED))
    except BadRequest as refusal:
        return refusal
    assert isinstance(asked.options.sampling_of(0, 100), SamplingParams)
    return None


@given(st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode()))
def test_bytes_are_an_object_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(parse_object(raw), dict)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_python_takes_for_a_number_and_json_does_not_is_refused(constant: str) -> None:
    with pytest.raises(BadRequest, match=constant):
        parse_object(f'{{"temperature": {constant}}}'.encode())


@pytest.mark.parametrize("depth", [50, 400, 900, 5_000, 100_000])
@pytest.mark.parametrize("name", ["messages", "prompt", "response_format", "metadata", "tools"])
def test_a_body_nested_as_deep_as_anybody_likes_is_never_our_fault(
    server: RunningServer, name: str, depth: int
) -> None:
    nested = "[" * depth + "]" * depth
    if name in ("response_format", "tools"):
        nested = '{"type": "json_schema", "json_schema": {"schema": {"a": ' + nested + "}}}"
    body = json.dumps(COMPLETION)[:-1] + f', "{name}": {nested}}}'
    status, said = post(server.url, body.encode())
    assert status in (200, 400)
    assert status == 200 or said["error"]["type"] == "invalid_request_error"
