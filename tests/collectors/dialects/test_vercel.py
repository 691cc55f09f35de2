"""Vercel's AI SDK, from version 3 to version 7."""

import json
from typing import Any

import pytest

from collectors.observation import Provenance, Tags, Usage
from tests.collectors.bodies import decoded, observed, span

CALL: dict[str, Any] = {
    "ai.operationId": "ai.generateText.doGenerate",
    "ai.model.provider": "anthropic.messages",
    "ai.model.id": "claude-sonnet-4-5",
    "ai.response.model": "claude-sonnet-4-5-20250929",
    "ai.response.id": "msg_1",
}
WHOLE = Usage(317, 4099, 1409, 211)


@pytest.mark.parametrize(
    "usage",
    [
        {  # version 7 in the names of OpenTelemetry, with the operation of version 6
            "gen_ai.usage.input_tokens": 5825,
            "gen_ai.usage.output_tokens": 211,
            "ai.usage.inputTokenDetails.noCacheTokens": 317,
            "gen_ai.usage.cache_read.input_tokens": 4099,
            "gen_ai.usage.cache_creation.input_tokens": 1409,
        },
        {  # version 6
            "ai.usage.inputTokens": 5825,
            "ai.usage.outputTokens": 211,
            "ai.usage.totalTokens": 6036,
            "ai.usage.inputTokenDetails.noCacheTokens": 317,
            "ai.usage.inputTokenDetails.cacheReadTokens": 4099,
            "ai.usage.inputTokenDetails.cacheWriteTokens": 1409,
            "ai.usage.cachedInputTokens": 4099,
        },
        {  # version 5
            "ai.usage.inputTokens": 317,
            "ai.usage.outputTokens": 211,
            "ai.usage.totalTokens": 528,
            "ai.usage.cachedInputTokens": 4099,
            "ai.response.providerMetadata": json.dumps(
                {"anthropic": {"usage": {"cache_creation_input_tokens": 1409}}}
            ),
        },
        {  # version 4
            "ai.usage.promptTokens": 317,
            "ai.usage.completionTokens": 211,
            "ai.response.providerMetadata": json.dumps(
                {"anthropic": {"cacheReadInputTokens": 4099, "cacheCreationInputTokens": 1409}}
            ),
        },
    ],
)
def test_each_versions_counts_come_out_the_same(usage: dict[str, Any]) -> None:
    seen = observed({**CALL, **usage}, scope="ai")
    assert (seen.usage, seen.provenance, seen.contradiction) == (WHOLE, Provenance.REPORTED, "")
    assert (seen.provider, seen.request_model, seen.response_id) == (
        "anthropic",
        "claude-sonnet-4-5",
        "msg_1",
    )


def test_openais_input_included_cached_tokens_in_every_version() -> None:
    version_5 = {
        **CALL,
        "ai.model.provider": "openai.responses",
        "ai.usage.inputTokens": 1131,
        "ai.usage.outputTokens": 257,
        "ai.usage.reasoningTokens": 64,
        "ai.usage.cachedInputTokens": 512,
    }
    seen = observed(version_5, scope="ai")
    assert (seen.usage, seen.provider) == (Usage(619, 512, None, 257, 64), "openai")


def test_version_7_speaks_opentelemetrys_names_and_includes_cached_tokens() -> None:
    seen = observed(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.usage.input_tokens": 5825,
            "gen_ai.usage.output_tokens": 211,
            "gen_ai.usage.cache_read.input_tokens": 4099,
            "gen_ai.usage.cache_creation.input_tokens": 1409,
            "gen_ai.client.operation.time_to_first_chunk": 0.25,
        },
        scope="gen_ai",
    )
    assert (seen.dialect, seen.usage, seen.streaming) == ("vercel", WHOLE, True)
    assert seen.time_to_first_token_ns == 250_000_000


@pytest.mark.parametrize("function", ["generateText", "streamText", "generateObject", "embedMany"])
def test_the_function_that_was_called_wraps_what_it_did(function: str) -> None:
    around = {**CALL, "ai.operationId": f"ai.{function}", "ai.usage.inputTokens": 7}
    assert observed(around, scope="ai").is_wrapper
    # Under a tracer that the application brought, it says who speaks by itself.
    assert observed(around, scope="shop").dialect == "vercel"


@pytest.mark.parametrize("operation", ["invoke_agent", "agent_step", "execute_tool"])
def test_what_wraps_in_version_7_is_not_counted(operation: str) -> None:
    around = {"gen_ai.operation.name": operation, "gen_ai.usage.input_tokens": 7}
    assert observed(around, scope="gen_ai").is_wrapper
    assert decoded(span({"ai.operationId": "ai.toolCall"}), scope="ai").observations == []


def test_embeddings_are_counted_where_they_were_made() -> None:
    seen = observed(
        {
            "ai.operationId": "ai.embedMany.doEmbed",
            "ai.model.provider": "openai.embedding",
            "ai.usage.tokens": 46,
        },
        scope="ai",
    )
    assert (seen.operation, seen.usage, seen.provider) == (
        "embeddings",
        Usage(input_tokens=46),
        "openai",
    )


def test_milliseconds_to_the_first_chunk_are_there_only_where_it_streamed() -> None:
    seen = observed(
        {**CALL, "ai.operationId": "ai.streamText.doStream", "ai.response.msToFirstChunk": 199.5},
        scope="ai",
    )
    assert (seen.streaming, seen.time_to_first_token_ns) == (True, 199_500_000)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("openai.chat", "openai"),
        ("google.generative-ai", "gcp.gemini"),
        ("google.vertex.chat", "gcp.vertex_ai"),
        ("amazon-bedrock", "aws.bedrock"),
        ("azure-openai.chat", "azure.ai.openai"),
        ("groq.chat", "groq"),
        ("my-provider", "my-provider"),
    ],
)
def test_a_provider_is_named_without_its_api(sent: str, read: str) -> None:
    seen = observed({**CALL, "ai.model.provider": sent}, scope="ai")
    assert seen.provider == read


def test_the_metadata_of_a_call_says_who_pays() -> None:
    seen = observed(
        {
            **CALL,
            "ai.telemetry.metadata.userId": "u-alice",
            "ai.telemetry.metadata.sessionId": "s-100",
            "ai.telemetry.metadata.tags": ["prod", "team:payments"],
            "ai.telemetry.metadata.tenantId": "acme",
        },
        scope="ai",
    )
    assert seen.tags == Tags("payments", None, "acme", "u-alice", "s-100")


def test_a_scope_that_only_begins_like_its_own_is_somebody_elses() -> None:
    said = {"gen_ai.operation.name": "chat"}
    assert observed(said, scope="aiohttp").dialect == "otel_genai"
    assert observed(said, scope="gen_ai.mine").dialect == "otel_genai"
