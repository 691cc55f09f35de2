"""Langfuse's SDKs: usage as JSON in whichever shape, tags in quotes."""

import json
from typing import Any

import pytest

from collectors.observation import Tags, Usage, Vantage
from tests.collectors.bodies import NOON_NS, decoded, observed, span

GENERATION = {
    "langfuse.observation.type": "generation",
    "langfuse.observation.model.name": "claude-sonnet-4-5",
}
WHOLE = Usage(317, 4099, 1409, 211)


def usage_of(usage: dict[str, Any]) -> Usage:
    said = {**GENERATION, "langfuse.observation.usage_details": json.dumps(usage)}
    seen = observed(said, scope="langfuse-sdk")
    assert seen.contradiction == ""
    return seen.usage


@pytest.mark.parametrize(
    "usage",
    [
        {"input": 317, "output": 211, "cache_read_input_tokens": 4099, "cache_creation_input_tokens": 1409},
        {"input": 317, "output": 211, "input_cache_read": 4099, "input_cache_creation": 1409, "total": 6036},
        {"input": 317, "output": 211, "cache_read": 4099, "cache_write": 1409},
        {"input": 317, "output": 211, "input_cached_tokens": 4099, "input_ephemeral_5m_input_tokens": 1409},
        {"input": 5825, "output": 211, "input_cached_tokens": 4099, "input_cache_creation": 1409, "total": 6036},
        {"input_tokens": 317, "output_tokens": 211, "cache_read_input_tokens": 4099, "cache_creation_input_tokens": 1409},
        {"inputTokens": 317, "outputTokens": 211, "cacheReadInputTokens": 4099, "cacheWriteInputTokens": 1409},
        {
            "input_tokens": 5825,
            "output_tokens": 211,
            "total_tokens": 6036,
            "input_token_details": {"cache_read": 4099, "cache_creation": 1409},
        },
    ],
)  # fmt: skip
def test_cached_tokens_beside_the_input_or_in_it_are_counted_once(usage: dict[str, Any]) -> None:
    assert usage_of(usage) == WHOLE


@pytest.mark.parametrize(
    "usage",
    [
        {
            "prompt_tokens": 1131,
            "completion_tokens": 257,
            "total_tokens": 1388,
            "prompt_tokens_details": {"cached_tokens": 512},
            "completion_tokens_details": {"reasoning_tokens": 64},
        },
        {"input": 619, "input_cached_tokens": 512, "output": 193, "output_reasoning": 64, "total": 1388},
        {"input": 619, "input_cache_read": 512, "output": 193, "output_reasoning_tokens": 64},
        {
            "prompt_token_count": 1131,
            "candidates_token_count": 193,
            "thoughts_token_count": 64,
            "cached_content_token_count": 512,
            "total_token_count": 1388,
        },
        {
            "promptTokenCount": 1131,
            "candidatesTokenCount": 193,
            "thoughtsTokenCount": 64,
            "cachedContentTokenCount": 512,
        },
    ],
)  # fmt: skip
def test_reasoning_beside_the_output_or_in_it_is_counted_once(usage: dict[str, Any]) -> None:
    assert usage_of(usage) == Usage(619, 512, None, 257, 64)


@pytest.mark.parametrize(
    "usage", [{}, {"input": None}, {"input": True}, {"words": 7}, {"input": "12"}]
)
def test_usage_that_says_nothing_is_unknown(usage: dict[str, Any]) -> None:
    assert usage_of(usage) == Usage()


def test_a_generation_is_a_call_and_everything_else_is_around_one() -> None:
    assert observed(GENERATION, scope="my.tracer").dialect == "langfuse"
    seen = observed({**GENERATION, "langfuse.observation.type": "embedding"}, scope="langfuse-sdk")
    assert (seen.operation, seen.vantage) == ("embeddings", Vantage.FRAMEWORK)
    for kind in ("span", "agent", "tool", "chain", "retriever", "event"):
        around = {**GENERATION, "langfuse.observation.type": kind}
        assert decoded(span(around), scope="langfuse-sdk").observations == []
        counted = {**around, "gen_ai.usage.input_tokens": 7}
        assert observed(counted, scope="langfuse-sdk").is_wrapper


def test_the_first_token_came_at_a_moment() -> None:
    # NOON_NS is 2026-11-23 00:00:00 UTC
    said = {
        **GENERATION,
        "langfuse.observation.completion_start_time": '"2026-11-23T00:00:00.250000Z"',
    }
    seen = observed(said, scope="langfuse-sdk")
    assert (seen.streaming, seen.time_to_first_token_ns) == (True, 250_000_000)
    for garbage in ("soon", "2026-11-23T00:00:00", '"'):
        said["langfuse.observation.completion_start_time"] = garbage
        assert observed(said, scope="langfuse-sdk").time_to_first_token_ns is None


def test_noon_is_what_the_test_above_says() -> None:
    assert NOON_NS == 1_795_392_000 * 10**9


def test_an_error_is_a_level() -> None:
    assert observed({**GENERATION, "langfuse.observation.level": "ERROR"}).error_type == "error"
    assert observed({**GENERATION, "langfuse.observation.level": "DEFAULT"}).error_type == ""


def test_tags_stand_in_quotes() -> None:
    seen = observed(
        {
            **GENERATION,
            "langfuse.trace.metadata.team": '"search"',
            "langfuse.trace.metadata.tenant": '"acme"',
            "langfuse.observation.metadata.langfuse_session_id": "s-1",
            "user.id": "u-carol",
            "langfuse.trace.tags": ["team:other", "feature:chat"],
        },
        scope="langfuse-sdk",
    )
    assert seen.tags == Tags("search", "chat", "acme", "u-carol", "s-1")
