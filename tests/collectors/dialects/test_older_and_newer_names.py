"""Dialects that speak in attributes alone: the names of their versions, and what their numbers mean."""

from typing import Any

import pytest

from collectors.observation import Provenance, Usage, Vantage
from tests.collectors.bodies import decoded, observed, span

CHAT = {"gen_ai.operation.name": "chat"}


# OpenLIT


def test_openlits_anthropic_input_comes_without_cached_tokens() -> None:
    said = {
        **CHAT,
        "gen_ai.usage.input_tokens": 5825,
        "gen_ai.usage.output_tokens": 211,
        "gen_ai.usage.cache_read.input_tokens": 99,
        "gen_ai.usage.cache_creation.input_tokens": 9,
    }
    seen = observed(said, scope="openlit.instrumentation.anthropic")
    assert (seen.usage, seen.contradiction) == (Usage(5825, 99, 9, 211), "")
    assert observed(said, scope="openlit.instrumentation.openai").usage == Usage(5717, 99, 9, 211)


@pytest.mark.parametrize(
    ("flag", "scope"),
    [
        ("gen_ai.request.stream", "openlit.instrumentation.openai"),
        ("gen_ai.request.is_stream", "openlit.otel.tracing"),  # before every provider had a scope
    ],
)
def test_openlits_stream_that_names_no_cache_was_counted_by_openlit(flag: str, scope: str) -> None:
    stream = {
        **CHAT,
        flag: True,
        "gen_ai.usage.input_tokens": 27,
        "gen_ai.usage.output_tokens": 16,
    }
    counted = {**stream, "gen_ai.usage.cache_read.input_tokens": 0}
    assert observed(stream, scope=scope).provenance is Provenance.ESTIMATED
    assert observed(counted, scope=scope).provenance is Provenance.REPORTED
    assert observed({**stream, flag: False}, scope=scope).provenance is Provenance.REPORTED


def test_zeros_are_unknown_and_not_estimated() -> None:
    stream = {**CHAT, "gen_ai.request.stream": True, "gen_ai.usage.input_tokens": 0}
    seen = observed(stream, scope="openlit.instrumentation.openai")
    assert seen.provenance is Provenance.ABSENT


def test_openlits_times_of_an_answer_that_came_at_once_are_none() -> None:
    said = {
        **CHAT,
        "gen_ai.request.stream": False,
        "gen_ai.server.time_to_first_token": 0.2,
        "gen_ai.server.time_per_output_token": 0,
    }
    seen = observed(said, scope="openlit.instrumentation.openai")
    assert (seen.time_to_first_token_ns, seen.time_per_output_token_ns) == (None, None)


# OpenInference


def test_openinferences_stream_of_2025_left_cached_tokens_out() -> None:
    stream = {
        "openinference.span.kind": "LLM",
        "llm.invocation_parameters": '{"stream": true}',
        "llm.token_count.prompt": 331,
        "llm.token_count.completion": 223,
    }
    scope = "openinference.instrumentation.anthropic"
    assert observed(stream, scope=scope).provenance is Provenance.ESTIMATED
    today = {
        **stream,
        "llm.token_count.prompt": 6043,
        "llm.token_count.prompt_details.cache_read": 4201,
        "llm.token_count.prompt_details.cache_write": 1511,
    }
    seen = observed(today, scope=scope)
    assert (seen.usage, seen.provenance) == (Usage(331, 4201, 1511, 223), Provenance.REPORTED)


@pytest.mark.parametrize(
    ("media_type", "response_id"), [("application/json", "order-7"), ("text/plain", "")]
)
def test_an_id_that_the_model_wrote_itself_is_none(media_type: str, response_id: str) -> None:
    seen = observed(
        {
            "openinference.span.kind": "LLM",
            "output.value": '{"id": "order-7", "total": 12}',
            "output.mime_type": media_type,
        }
    )
    assert seen.response_id == response_id


def test_a_sentence_is_no_id() -> None:
    answer = '{"choices": [], "id": "Paris is the capital"}'
    assert observed({"openinference.span.kind": "LLM", "output.value": answer}).response_id == ""


# OpenLLMetry


def test_openllmetry_before_the_conventions_had_names() -> None:
    seen = observed(
        {
            "llm.request.type": "chat",
            "llm.vendor": "OpenAI",
            "llm.request.model": "gpt-4",
            "llm.response.model": "gpt-4-0613",
            "llm.usage.prompt_tokens": 20,
            "llm.usage.completion_tokens": 5,
            "llm.usage.total_tokens": 25,
        },
        scope="opentelemetry.instrumentation.openai.v1",
    )
    assert (seen.dialect, seen.provider, seen.request_model, seen.response_model) == (
        "openllmetry",
        "openai",
        "gpt-4",
        "gpt-4-0613",
    )
    assert seen.usage == Usage(20, None, None, 5)


def test_openllmetrys_association_properties_and_gen_ai_names_of_today() -> None:
    seen = observed(
        {
            **CHAT,
            "gen_ai.provider.name": "openai",
            "gen_ai.is_streaming": True,
            "gen_ai.usage.input_tokens": 1131,
            "gen_ai.usage.output_tokens": 257,
            "gen_ai.usage.cache_read.input_tokens": 512,
            "gen_ai.usage.reasoning_tokens": 64,
            "traceloop.association.properties.session_id": "s",
        },
        scope="opentelemetry.instrumentation.openai.v1",
    )
    assert (seen.usage, seen.streaming) == (Usage(619, 512, None, 257, 64), True)
    assert seen.tags.session == "s"


# Google and Azure


@pytest.mark.parametrize("name", ["thoughts_tokens", "thoughts_token_count"])
@pytest.mark.parametrize(
    "cached", ["cached_content_tokens", "cached_content_token_count", "cached_tokens"]
)
def test_googles_thoughts_lie_beside_its_candidates(name: str, cached: str) -> None:
    said = {
        **CHAT,
        "gen_ai.system": "vertex_ai",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 50,
        f"gen_ai.usage.{name}": 200,
        f"gen_ai.usage.{cached}": 30,
    }
    assert observed(said).usage == Usage(70, 30, None, 250, 200)
    assert observed({**said, "gen_ai.usage.total_tokens": 350}).usage.output_tokens == 250
    added_up = {**said, "gen_ai.usage.output_tokens": 250, "gen_ai.usage.total_tokens": 350}
    assert observed(added_up).usage.output_tokens == 250


def test_googles_own_instrumentation_counts_as_the_conventions_say() -> None:
    seen = observed(
        {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.text.input_tokens": 80,
            "gen_ai.usage.image.input_tokens": 20,
            "gen_ai.usage.output_tokens": 250,
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.usage.text.cache_read.input_tokens": 30,
            "gen_ai.usage.reasoning.output_tokens": 200,
        },
        scope="opentelemetry.instrumentation.google_genai",
    )
    assert seen.usage == Usage(70, 30, None, 250, 200)
    assert (seen.dialect, seen.operation) == ("otel_genai", "generate_content")


def test_googles_agent_kit_is_a_framework_around_the_client() -> None:
    said = {"gen_ai.system": "gcp.vertex.agent", "gen_ai.usage.input_tokens": 10}
    assert observed(said, scope="gcp.vertex.agent").vantage is Vantage.FRAMEWORK


@pytest.mark.parametrize(
    ("system", "provider"),
    [
        ("az.ai.inference", "azure.ai.inference"),
        ("az.ai.openai", "azure.ai.openai"),
        ("azure.ai.inference", "azure.ai.inference"),
    ],
)
def test_azures_older_names_of_itself_become_todays(system: str, provider: str) -> None:
    said = {**CHAT, "gen_ai.system": system, "gen_ai.usage.input_tokens": 10}
    assert observed(said, scope="azure.ai.inference").provider == provider


def test_semantic_kernel_counted_under_response() -> None:
    seen = observed(
        {
            "gen_ai.operation.name": "chat.completions",
            "gen_ai.system": "openai",
            "gen_ai.response.prompt_tokens": 16,
            "gen_ai.response.completion_tokens": 29,
        }
    )
    assert (seen.operation, seen.usage) == ("chat", Usage(16, None, None, 29))


# vLLM


@pytest.mark.parametrize(
    ("sent", "read"),
    [("cmpl-1-0", "cmpl-1"), ("cmpl-1-1", "cmpl-1-1"), ("chatcmpl-1", "chatcmpl-1")],
)
def test_the_engines_id_of_a_completion_becomes_the_answers(sent: str, read: str) -> None:
    said: dict[str, Any] = {"gen_ai.request.id": sent, "gen_ai.usage.prompt_tokens": 20}
    assert observed(said, scope="vllm.tracing.otel").response_id == read
    assert observed(said, scope="vllm.llm_engine").response_id == read


@pytest.mark.parametrize("scope", ["vllm.tracing.otel", "sglang server"])
def test_a_runtimes_phases_are_those_of_a_server_on_the_device_that_its_resource_names(
    scope: str,
) -> None:
    said: dict[str, Any] = {
        "gen_ai.request.id": "chatcmpl-1",
        "gen_ai.usage.prompt_tokens": 20,
        "gen_ai.latency.time_in_queue": 0.001,
        "gen_ai.latency.time_in_model_prefill": 1.281,
        "gen_ai.latency.time_in_model_decode": 0.654,
    }
    resource = {"costwatch.device_type": "NVIDIA H100", "hw.id": "GPU-1 GPU-2"}
    [seen] = decoded(span(said), scope=scope, resource=resource).observations
    assert seen.vantage is Vantage.SERVER
    assert (seen.queue_ns, seen.prefill_ns, seen.decode_ns) == (
        1_000_000,
        1_281_000_000,
        654_000_000,
    )
    assert (seen.device_type, seen.device_ids) == ("NVIDIA H100", "GPU-1 GPU-2")
