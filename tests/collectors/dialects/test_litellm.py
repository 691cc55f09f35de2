"""LiteLLM's callback, in the SDK and in the proxy, with and without its own span of a request."""

import base64
from typing import Any

import pytest

from collectors.observation import Provenance, Tags, Usage, Vantage
from tests.collectors.bodies import decoded, observed, span

USAGE = (
    "{'completion_tokens': 211, 'prompt_tokens': 5825, 'total_tokens': 6036, 'completion_tokens_details': "
    "{'reasoning_tokens': 64, 'text_tokens': None}, 'prompt_tokens_details': {'audio_tokens': None, "
    "'cached_tokens': 4099, 'cache_write_tokens': 1409}, 'cache_creation_input_tokens': 1409}"
)
REQUEST: dict[str, Any] = {
    "llm.request.type": "acompletion",
    "gen_ai.operation.name": "acompletion",
    "gen_ai.system": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.id": "chatcmpl-e93ee93e-7a70-48c3-8a0f-745cd802e761",
    "litellm.call_id": "e64efc8c",
    "llm.is_streaming": "False",
    "gen_ai.usage.input_tokens": 5825,
    "gen_ai.usage.output_tokens": 211,
    "gen_ai.usage.total_tokens": 6036,
}
WHOLE = Usage(317, 4099, 1409, 211, 64)


def test_the_details_of_usage_stand_in_a_text_that_python_wrote() -> None:
    seen = observed({**REQUEST, "metadata.usage_object": USAGE}, scope="litellm")
    assert (seen.usage, seen.provenance, seen.contradiction) == (WHOLE, Provenance.REPORTED, "")
    assert (seen.dialect, seen.vantage, seen.operation) == ("litellm", Vantage.FRAMEWORK, "chat")
    assert seen.streaming is False


def test_without_the_details_the_plain_counts_are_read_under_older_names_too() -> None:
    older = {
        "llm.request.type": "completion",
        "gen_ai.system": "openai",
        "gen_ai.usage.prompt_tokens": 7,
        "gen_ai.usage.completion_tokens": 3,
        "llm.usage.total_tokens": 10,
    }
    seen = observed(older, scope="litellm")
    assert (seen.usage, seen.operation) == (Usage(7, None, None, 3), "chat")
    assert observed({**REQUEST, "metadata.usage_object": "{}"}, scope="litellm").usage == Usage(
        5825, None, None, 211
    )


def test_the_zeros_of_a_stream_without_usage_are_unknown() -> None:
    zeros = {
        "gen_ai.usage.input_tokens": 0,
        "gen_ai.usage.output_tokens": 0,
        "llm.is_streaming": "True",
        "metadata.usage_object": "{'completion_tokens': 0, 'prompt_tokens': 0, 'total_tokens': 0}",
    }
    seen = observed({**REQUEST, **zeros}, scope="litellm")
    assert (seen.usage, seen.provenance) == (Usage(), Provenance.ABSENT)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("aembedding", "embeddings"),
        ("embedding", "embeddings"),
        ("aresponses", "chat"),
        ("atext_completion", "text_completion"),
        ("anthropic_messages", "chat"),
        ("image_generation", "image_generation"),
    ],
)
def test_its_functions_are_operations(sent: str, read: str) -> None:
    assert observed({**REQUEST, "gen_ai.operation.name": sent}, scope="litellm").operation == read


def test_an_id_of_its_own_making_is_none() -> None:
    local = {"gen_ai.response.id": "e64efc8c", "litellm.call_id": "e64efc8c"}
    assert observed({**REQUEST, **local}, scope="litellm").response_id == ""


@pytest.mark.parametrize(
    "scope", ["litellm", "opentelemetry.instrumentation.openai_v2", "my.tracer"]
)
def test_the_providers_id_is_unpacked_wherever_it_was_handed_on(scope: str) -> None:
    said = "litellm:custom_llm_provider:openai;model_id:None;response_id:resp_68ae"
    packed = "resp_" + base64.b64encode(said.encode()).decode()
    seen = observed({**REQUEST, "gen_ai.response.id": packed}, scope=scope)
    assert seen.response_id == "resp_68ae"


@pytest.mark.parametrize("packed", ["resp_bGl0ZWxsbTp", "resp_bGl0ZWxsbTp!", "resp_bGl0ZWxsbTpj"])
def test_an_id_that_cannot_be_unpacked_stays_as_it_is(packed: str) -> None:
    assert observed({**REQUEST, "gen_ai.response.id": packed}).response_id == packed


def test_the_provider_and_the_server_are_found_where_they_stand() -> None:
    said = {name: REQUEST[name] for name in REQUEST if name != "gen_ai.system"}
    seen = observed(
        {
            **said,
            "litellm.provider.model": "openai/text-embedding-3-small",
            "hidden_params": '{"model_id": null, "api_base": "http://user:pw@vllm.internal:8000/v1"}',
        },
        scope="litellm",
    )
    assert (seen.provider, seen.server_address) == ("openai", "vllm.internal")
    assert observed({**said, "litellm.provider.model": "gpt-4o"}, scope="litellm").provider == ""


def test_the_proxy_is_a_gateway_and_says_whose_key_it_was() -> None:
    seen = observed(
        {
            **REQUEST,
            "metadata.user_api_key_request_route": "/v1/chat/completions",
            "metadata.user_api_key_team_alias": "growth",
            "metadata.user_api_key_user_id": "u-bob",
            "llm.user": "somebody",
        },
        scope="litellm",
    )
    assert seen.vantage is Vantage.GATEWAY
    assert seen.tags == Tags(team="growth", user="u-bob")


def test_by_default_the_proxys_usage_stands_on_a_child_of_the_server_span() -> None:
    asked = {name: REQUEST[name] for name in REQUEST if "usage" not in name}
    raw = {
        "llm.anthropic.messages": "[]",
        "llm.anthropic.id": "msg_1",
        "llm.anthropic.model": "claude-sonnet-4-5-20250929",
        "llm.anthropic.usage": "{'input_tokens': 317, 'cache_creation_input_tokens': 1409, "
        "'cache_read_input_tokens': 4099, 'output_tokens': 211, 'service_tier': 'standard'}",
        "metadata.user_api_key_team_alias": "growth",
    }
    [server] = decoded(span(asked, number=1), scope="fastapi").observations
    [child] = decoded(span(raw, number=2, parent=1), scope="litellm").observations
    assert (server.dialect, server.provenance) == ("litellm", Provenance.ABSENT)
    assert not server.is_wrapper
    assert (child.dialect, child.usage) == ("litellm_raw", Usage(317, 4099, 1409, 211))
    assert (child.provider, child.response_model) == ("anthropic", "claude-sonnet-4-5-20250929")
    assert (child.response_id, child.tags.team) == ("msg_1", "growth")


@pytest.mark.parametrize(
    ("raw", "usage", "provider"),
    [
        (
            {"llm.openai.usage": "{'prompt_tokens': 46, 'total_tokens': 46}"},
            Usage(input_tokens=46),
            "openai",
        ),
        (
            {"llm.None.usage": "{'prompt_tokens': 46, 'total_tokens': 46}"},
            Usage(input_tokens=46),
            "",
        ),
        (
            {
                "llm.vertex_ai.usageMetadata": "{'promptTokenCount': 10, 'candidatesTokenCount': 5, "
                "'thoughtsTokenCount': 7, 'totalTokenCount': 22}",
                "llm.vertex_ai.responseId": "r1",
            },
            Usage(10, None, None, 12, 7),
            "vertex_ai",
        ),
    ],
)
def test_the_raw_answer_is_read_in_each_providers_shape(
    raw: dict[str, str], usage: Usage, provider: str
) -> None:
    seen = observed(raw, scope="litellm")
    assert (seen.usage, seen.provider) == (usage, provider)


def test_a_raw_request_without_an_answer_is_no_call_of_its_own() -> None:
    raw = {"llm.openai.model": "gpt-4o", "llm.openai.stream": True}
    assert decoded(span(raw), scope="litellm").observations == []
