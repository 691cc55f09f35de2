"""Logfire's instrumentations, and pydantic-ai's own spans."""

from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors.observation import Tags, Usage, Vantage
from tests.collectors.bodies import NOON_NS, decoded, observed, span

CHAT: dict[str, Any] = {
    "logfire.span_type": "span",
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o",
}
COUNTS = {"gen_ai.usage.input_tokens": 1131, "gen_ai.usage.output_tokens": 257}
RAW = (
    '{"completion_tokens":257,"prompt_tokens":1131,"total_tokens":1388,"completion_tokens_details":'
    '{"reasoning_tokens":64},"prompt_tokens_details":{"cached_tokens":512}}'
)


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (RAW, Usage(619, 512, None, 257, 64)),
        (
            '{"input_tokens":1907,"input_tokens_details":{"cache_write_tokens":0,"cached_tokens":768},'
            '"output_tokens":419,"output_tokens_details":{"reasoning_tokens":128},"total_tokens":2326}',
            Usage(1139, 768, 0, 419, 128),
        ),
        (
            '{"input_tokens":317,"cache_creation_input_tokens":1409,"cache_read_input_tokens":4099,'
            '"output_tokens":211,"service_tier":"standard"}',
            Usage(317, 4099, 1409, 211),
        ),
        ("null", Usage(1131, None, None, 257)),
    ],
)
def test_the_providers_own_usage_says_what_was_cached(raw: str, usage: Usage) -> None:
    seen = observed({**CHAT, **COUNTS, "gen_ai.usage.raw": raw}, scope="logfire.openai")
    assert (seen.usage, seen.dialect, seen.contradiction) == (usage, "logfire", "")


def test_before_that_the_providers_usage_stood_in_the_answer() -> None:
    answer = f'{{"message": {{"role": "assistant", "content": "Paris"}}, "usage": {RAW}}}'
    seen = observed({**CHAT, **COUNTS, "response_data": answer}, scope="logfire.openai")
    assert seen.usage == Usage(619, 512, None, 257, 64)


def test_a_stream_is_counted_by_the_log_of_its_end_and_began_when_it_began() -> None:
    opening = span(CHAT, number=1, parent=9)
    log = span(
        {**CHAT, **COUNTS, "logfire.span_type": "log", "duration": 0.25, "gen_ai.usage.raw": RAW},
        number=2,
        parent=9,
        start_time_unix_nano=NOON_NS + 10**9,
    )
    first, last = decoded(opening, log, scope="logfire.openai").observations
    assert (first.is_wrapper, first.usage) == (True, Usage())
    assert (last.is_wrapper, last.usage) == (False, Usage(619, 512, None, 257, 64))
    assert last.streaming
    assert (last.start_unix_ns, last.end_unix_ns) == (NOON_NS + 750_000_000, NOON_NS + 10**9)


def test_a_duration_that_cannot_be_does_not_move_the_beginning_before_time() -> None:
    log = {**CHAT, **COUNTS, "logfire.span_type": "log"}
    assert observed({**log, "duration": 2e9}, scope="logfire.openai").start_unix_ns == 1
    assert observed({**log, "duration": 9e9}, scope="logfire.openai").start_unix_ns == NOON_NS
    assert observed({**log, "duration": -1.0}, scope="logfire.openai").start_unix_ns == NOON_NS


@pytest.mark.parametrize(
    "said",
    [
        {"gen_ai.response.id": "chatcmpl-1"},
        {"gen_ai.usage.input_tokens": 1},
        {"gen_ai.operation.name": "embeddings"},
    ],
)
def test_what_came_back_with_an_id_or_usage_opens_no_stream(said: dict[str, Any]) -> None:
    assert not observed({**CHAT, **said}, scope="logfire.openai").is_wrapper


def test_a_call_that_failed_is_no_opening_of_a_stream() -> None:
    failed = observed(
        CHAT,
        scope="logfire.openai",
        status=Status(code=Status.STATUS_CODE_ERROR),
        events=[Span.Event(name="exception")],
    )
    assert (failed.is_wrapper, failed.error_type) == (False, "error")


def test_a_span_that_is_announced_before_it_ends_is_not_counted() -> None:
    pending = {**CHAT, **COUNTS, "logfire.span_type": "pending_span"}
    assert observed(pending, scope="logfire.openai").is_wrapper


def test_its_tags_name_teams() -> None:
    seen = observed({**CHAT, **COUNTS, "logfire.tags": ["LLM", "team:payments"]})
    assert seen.tags == Tags(team="payments")


# pydantic-ai


def test_details_have_names_of_their_own_in_pydantic_ai() -> None:
    details = {
        "gen_ai.usage.details.cache_read_tokens": 512,
        "gen_ai.usage.details.cache_write_tokens": 10,
        "gen_ai.usage.details.reasoning_tokens": 64,
    }
    seen = observed({**CHAT, **COUNTS, **details}, scope="pydantic-ai")
    assert (seen.dialect, seen.vantage) == ("pydantic_ai", Vantage.FRAMEWORK)
    assert seen.usage == Usage(609, 512, 10, 257, 64)


@pytest.mark.parametrize(
    "agent",
    [
        {"gen_ai.operation.name": "invoke_agent", **COUNTS},
        {"agent_name": "weather", "model_name": "gpt-4o", **COUNTS},  # its first versions
    ],
)
def test_an_agents_span_sums_its_models_spans_and_is_not_counted(agent: dict[str, Any]) -> None:
    assert observed(agent, scope="pydantic-ai").is_wrapper


def test_a_span_of_anybody_else_that_names_an_agent_is_counted() -> None:
    assert not observed({"agent_name": "weather", **COUNTS}).is_wrapper


def test_aggregated_usage_is_nobodys() -> None:
    agent = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.aggregated_usage.input_tokens": 1544,
        "logfire.metrics": "{}",
    }
    assert decoded(span(agent), scope="pydantic-ai").observations == []
