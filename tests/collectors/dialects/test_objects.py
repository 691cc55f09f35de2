"""Objects inside texts: what is meant is read, and nothing that a sender writes can raise or take long."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.dialects.objects import (
    MAX_CHARACTERS,
    MAX_REPR_CHARACTERS,
    any_object,
    json_object,
    python_object,
)
from collectors.dialects.provider_usage import counts_of
from tests.collectors.bodies import observed

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53)
details = st.dictionaries(names, leaves, max_size=3)
plain_objects = st.dictionaries(
    names, leaves | details | st.lists(leaves | details, max_size=2), max_size=3
)


@given(plain_objects)
def test_what_python_wrote_is_read_back(written: dict[str, Any]) -> None:
    assert python_object(repr(written)) == written
    assert any_object(repr(written)) == written


@given(plain_objects)
def test_json_is_read_back(written: dict[str, Any]) -> None:
    assert any_object(json.dumps(written)) == written


def test_words_of_python_inside_names_are_names() -> None:
    written = {
        "None_of_it": None,
        "True": "None",
        "false": [True, False],
        "not None": "True, or so",
    }
    assert python_object(repr(written)) == written


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "None",
        "[1]",
        "{'a': 1",
        "{1: 2}",
        "{'a': __import__('os').system('true')}",
        "{'a': 10**10**10}",
        "{'a': 'x' * 10**10}",
        "{'a': \"it's\"}",
        '{\'a\': \'", "prompt_tokens": 9, "b": "\'}',
        "{'a': '\\x00'}",
        "{" * 16_000,
        "{'a': " * 2_000,
        "{'a': " + "[" * 16_000,
        "{'a': " + "-" * 16_000 + "1}",
        "{'a': " + "9" * 16_000 + "}",
        "{'a': " + "1," * 100_000 + "}",
        "{" + '"a":{' * 100_000,
        "{" + '"a":[' * 100_000,
        "Usage(prompt_tokens=5)",
    ],
)
def test_a_hostile_text_is_no_object(hostile: str) -> None:
    assert any_object(hostile) == {}


@given(st.text())
def test_any_text_is_an_object_or_none(text: str) -> None:
    assert isinstance(any_object(text), dict)
    assert isinstance(any_object("{" + text + "}"), dict)


def test_what_is_too_long_is_not_read() -> None:
    assert json_object('{"a": "' + "x" * MAX_CHARACTERS + '"}') == {}
    assert python_object("{'a': '" + "x" * MAX_REPR_CHARACTERS + "'}") == {}


@given(
    st.dictionaries(
        st.sampled_from(
            ["input_tokens", "prompt_tokens", "inputTokens", "output_tokens", "total_tokens"]
        )
        | st.sampled_from(["cache_read_input_tokens", "input_tokens_details", "usage", "input"]),
        plain_objects | leaves | st.text() | st.floats() | st.lists(leaves, max_size=2),
        max_size=5,
    )
)
def test_any_object_has_counts_or_none(usage: dict[str, Any]) -> None:
    assert all(type(count) is int for count in counts_of(usage).values())


@pytest.mark.parametrize("scope", ["litellm", "logfire.openai", "langfuse-sdk", "ai", "openinference.instrumentation.openai"])  # fmt: skip
@given(text=st.text() | plain_objects.map(repr) | plain_objects.map(json.dumps))
def test_whatever_stands_in_a_text_the_span_is_read(scope: str, text: str) -> None:
    said = text.encode("utf-8", "ignore").decode()
    names = (
        "metadata.usage_object",
        "llm.openai.usage",
        "gen_ai.usage.raw",
        "langfuse.observation.usage_details",
        "ai.response.providerMetadata",
        "hidden_params",
        "output.value",
        "response_data",
        "llm.invocation_parameters",
    )
    attributes = dict.fromkeys(names, said) | {"gen_ai.operation.name": "chat"}
    assert observed(attributes, scope=scope).end_unix_ns
