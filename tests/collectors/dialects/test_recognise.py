"""Who speaks, what a span is, and the names that older and newer versions use."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors.dialects.attributes import ROWS
from collectors.dialects.recognise import scope_of
from collectors.observation import Provenance, Tags, Usage, Vantage
from tests.collectors.bodies import NOON_NS, decoded, key_values, observed, request, span
from tests.collectors.inheritance import tags_of

CHAT = {"gen_ai.operation.name": "chat"}


@pytest.mark.parametrize(
    ("scope", "dialect", "vantage"),
    [
        ("opentelemetry.instrumentation.openai_v2", "otel_genai", Vantage.CLIENT),
        ("opentelemetry.instrumentation.genai.anthropic", "otel_genai", Vantage.CLIENT),
        ("opentelemetry.instrumentation.openai.v1", "openllmetry", Vantage.CLIENT),
        ("opentelemetry.instrumentation.langchain", "openllmetry", Vantage.FRAMEWORK),
        ("com.anthropic.sdk.python", "anthropic_sdk", Vantage.CLIENT),
        ("openinference.instrumentation.openai", "openinference", Vantage.CLIENT),
        ("openinference.instrumentation.openai_agents", "openinference", Vantage.FRAMEWORK),
        ("openinference.instrumentation.langchain", "openinference", Vantage.FRAMEWORK),
        ("@arizeai/openinference-instrumentation-openai", "openinference", Vantage.CLIENT),
        ("vllm.tracing.otel", "vllm", Vantage.SERVER),
        ("my own", "otel_genai", Vantage.CLIENT),
    ],
)
def test_the_scope_says_who_speaks_and_from_where(
    scope: str, dialect: str, vantage: Vantage
) -> None:
    seen = observed({**CHAT, "gen_ai.usage.input_tokens": 1}, scope=scope)
    assert (seen.dialect, seen.vantage) == (dialect, vantage)


def test_an_unknown_scope_is_known_by_its_kind_of_span() -> None:
    assert observed({"openinference.span.kind": "LLM"}).dialect == "openinference"
    usage = {"traceloop.span.kind": "workflow", "gen_ai.usage.input_tokens": 1}
    assert observed(usage).dialect == "openllmetry"
    assert observed(CHAT, kind=Span.SPAN_KIND_SERVER).vantage is Vantage.SERVER


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "gen_ai.usage.input_tokens": 5825,
            "gen_ai.usage.output_tokens": 211,
            "gen_ai.usage.cache_read.input_tokens": 4099,
            "gen_ai.usage.cache_creation.input_tokens": 1409,
            "gen_ai.usage.reasoning.output_tokens": 64,
        },
        {
            "gen_ai.usage.input_tokens": 5825,
            "gen_ai.usage.output_tokens": 211,
            "gen_ai.usage.cache_read.input_tokens": 4099,
            "gen_ai.usage.cache_write.input_tokens": 1409,
            "gen_ai.usage.reasoning_tokens": 64,
        },
        {  # OpenLLMetry 0.40
            "gen_ai.usage.prompt_tokens": 5825,
            "gen_ai.usage.completion_tokens": 211,
            "gen_ai.usage.cache_read_input_tokens": 4099,
            "gen_ai.usage.cache_creation_input_tokens": 1409,
            "gen_ai.usage.reasoning_tokens": 64,
            "llm.usage.total_tokens": 6036,
        },
        {  # OpenInference
            "llm.token_count.prompt": 5825,
            "llm.token_count.completion": 211,
            "llm.token_count.prompt_details.cache_read": 4099,
            "llm.token_count.prompt_details.cache_write": 1409,
            "llm.token_count.completion_details.reasoning": 64,
            "llm.token_count.total": 6036,
        },
        {  # numbers as JavaScript and careless libraries send them
            "gen_ai.usage.input_tokens": 5825.0,
            "gen_ai.usage.output_tokens": "211",
            "gen_ai.usage.cache_read.input_tokens": 4099.0,
            "gen_ai.usage.cache_write.input_tokens": 1409,
            "gen_ai.usage.reasoning_tokens": 64,
        },
    ],
)
def test_old_names_and_new_ones_count_the_same(attributes: Mapping[str, Any]) -> None:
    seen = observed({**CHAT, **attributes})
    assert seen.usage == Usage(317, 4099, 1409, 211, 64)
    assert (seen.provenance, seen.contradiction) == (Provenance.REPORTED, "")


def test_a_count_that_is_no_number_is_unknown() -> None:
    for garbage in (True, "many", 1.5, "", [1]):
        seen = observed({**CHAT, "gen_ai.usage.input_tokens": garbage})
        assert (seen.usage, seen.provenance) == (Usage(), Provenance.ABSENT)


@given(st.permutations(["gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"]))
def test_the_most_trusted_name_counts_in_whatever_order_they_come(names: list[str]) -> None:
    assert observed({**CHAT, **{name: name for name in names}}).provider == "gen_ai.provider.name"


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.operation.name": "invoke_agent"},
        {"gen_ai.operation.name": "execute_tool"},
        {"openinference.span.kind": "CHAIN"},
        {"openinference.span.kind": "AGENT"},
        {"traceloop.span.kind": "workflow"},
        {"traceloop.span.kind": "agent", "gen_ai.operation.name": "chat"},
    ],
)
def test_what_repeats_its_childrens_usage_is_a_wrapper(attributes: Mapping[str, Any]) -> None:
    assert decoded(span(attributes)).observations == []
    usage = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3}
    assert observed({**attributes, **usage}).is_wrapper


def test_an_operation_that_nobody_has_heard_of_is_a_call_when_it_has_usage() -> None:
    new = {"gen_ai.operation.name": "dream"}
    assert decoded(span(new)).observations == []
    assert not observed({**new, "gen_ai.usage.output_tokens": 3}).is_wrapper


def test_older_names_of_operations_become_todays() -> None:
    assert observed(
        {"llm.request.type": "completion", "gen_ai.usage.prompt_tokens": 3}
    ).operation == ("text_completion")
    assert observed({"openinference.span.kind": "EMBEDDING"}).operation == "embeddings"


def test_our_runtimes_span_is_the_servers_and_carries_device_time() -> None:
    seen = observed(
        {
            **CHAT,
            "gen_ai.provider.name": "costwatch",
            "costwatch.device_ns": 1234,
            "costwatch.device_ns_marginal": 1000,
            "costwatch.device_ns_alone": 2000,
            "costwatch.energy_uj": 55,
            "costwatch.device_type": "cpu",
            "costwatch.allocation_method": "measured",
            "costwatch.queue_ns": 0,
            "costwatch.time_to_first_token_ns": 9,
            "costwatch.request_repeated": False,
        },
        scope="serving.server.telemetry",
    )
    assert (seen.dialect, seen.vantage) == ("costwatch", Vantage.SERVER)
    assert (seen.device_ns, seen.device_ns_marginal, seen.device_ns_alone) == (1234, 1000, 2000)
    assert (seen.energy_uj, seen.device_type, seen.allocation_method) == (55, "cpu", "measured")
    assert (seen.queue_ns, seen.time_to_first_token_ns) == (0, 9)
    assert seen.request_repeated is False
    assert seen.prefill_ns is None


def test_vllms_span_says_its_phases_in_seconds() -> None:
    seen = observed(
        {
            "gen_ai.request.id": "chatcmpl-1",
            "gen_ai.usage.prompt_tokens": 20,
            "gen_ai.usage.completion_tokens": 5,
            "gen_ai.latency.time_in_queue": 0.25,
            "gen_ai.latency.time_in_model_prefill": 0.5,
            "gen_ai.latency.time_in_model_decode": 1.5,
            "gen_ai.latency.time_to_first_token": 0.75,
        },
        scope="vllm.tracing.otel",
    )
    assert (seen.response_id, seen.vantage) == ("chatcmpl-1", Vantage.SERVER)
    assert (seen.queue_ns, seen.prefill_ns, seen.decode_ns) == (
        250_000_000,
        500_000_000,
        1_500_000_000,
    )
    assert seen.time_to_first_token_ns == 750_000_000


def test_a_time_that_is_none_is_unknown() -> None:
    for garbage in (float("nan"), float("inf"), -1.0, "soon"):
        seen = observed({**CHAT, "gen_ai.response.time_to_first_chunk": garbage})
        assert seen.time_to_first_token_ns is None


def test_an_answer_that_came_at_once_has_no_first_token() -> None:
    seen = observed(
        {**CHAT, "gen_ai.request.stream": False, "gen_ai.server.time_to_first_token": 0.2}
    )
    assert seen.time_to_first_token_ns is None


def test_a_sum_over_a_stream_that_the_library_made_itself_is_marked_as_estimated() -> None:
    usage = {"gen_ai.usage.input_tokens": 6043, "gen_ai.usage.output_tokens": 224}
    stream = {**CHAT, **usage, "gen_ai.is_streaming": True}
    scope = "opentelemetry.instrumentation.anthropic"
    assert observed(stream, scope=scope).provenance is Provenance.ESTIMATED
    assert observed({**CHAT, **usage}, scope=scope).provenance is Provenance.REPORTED
    assert observed(stream, scope="com.anthropic.sdk.python").provenance is Provenance.REPORTED


@pytest.mark.parametrize(
    ("sent", "read"), [("True", True), ("False", False), (True, True), ("maybe", None), (1, None)]
)
def test_streaming_is_read_from_flags_and_from_their_names(sent: Any, read: bool | None) -> None:
    assert observed({**CHAT, "llm.is_streaming": sent}).streaming is read


def test_the_server_is_named_without_its_path_or_password() -> None:
    base = "https://user:secret@my-vllm.internal:8000/v1/tenant"
    seen = observed({**CHAT, "gen_ai.openai.api_base": base})
    assert seen.server_address == "my-vllm.internal"
    assert (
        observed({**CHAT, "gen_ai.openai.api_base": "http://[::1]:80/v1"}).server_address == "::1"
    )


def exception_event() -> Span.Event:
    return Span.Event(
        name="exception", attributes=key_values({"exception.type": "openai.RateLimitError"})
    )


def test_an_error_is_named_by_the_best_that_the_span_has() -> None:
    failed: dict[str, Any] = {"status": Status(code=Status.STATUS_CODE_ERROR)}
    named = {**CHAT, "error.type": "rate_limit"}
    assert observed(named, **failed, events=[exception_event()]).error_type == "rate_limit"
    assert observed(CHAT, **failed, events=[exception_event()]).error_type == (
        "openai.RateLimitError"
    )
    assert observed(CHAT, **failed).error_type == "error"
    assert observed(CHAT, events=[exception_event()]).error_type == ""


def test_text_that_would_not_fit_a_database_is_made_to() -> None:
    seen = observed({**CHAT, "gen_ai.request.model": "a\0b\n" + "x" * 1000, "team": " \0"})
    assert seen.request_model == "ab" + "x" * 252
    assert seen.tags.team is None


# OpenInference


@pytest.mark.parametrize(
    ("answer", "response_id"),
    [
        ('{"id":"chatcmpl-1","choices":[]}', "chatcmpl-1"),
        ('{"id": "chatcmpl-1", "choices": [{"message": {"conte', "chatcmpl-1"),
        ('{"choices": [], "id": "chatcmpl-1"}', "chatcmpl-1"),
        ('{"generations": [[]], "llm_output": {"id": "chatcmpl-1"}}', "chatcmpl-1"),
        (
            '{"generations": [[{"message": {"kwargs": {"id": "lc_run--1",'
            ' "response_metadata": {"id": "chatcmpl-1"}}}}]], "llm_output": null}',
            "chatcmpl-1",
        ),
        ('{"generations": [[{"message": {"kwargs": {"id": "lc_run--1"}}}]]}', ""),
        ('{"id": 7}', ""),
        ("[" * 100_000, ""),
        ("{" + '"a":{' * 100_000, ""),
        ("Paris.", ""),
    ],
)
def test_the_providers_id_is_found_inside_the_answer(answer: str, response_id: str) -> None:
    seen = observed({"openinference.span.kind": "LLM", "output.value": answer})
    assert seen.response_id == response_id


def test_openinference_keeps_the_request_in_json_and_the_first_token_in_an_event() -> None:
    seen = observed(
        {
            "openinference.span.kind": "LLM",
            "llm.system": "OpenAI",
            "llm.provider": "Azure",
            "llm.model_name": "gpt-4o-2024-08-06",
            "llm.invocation_parameters": json.dumps({"model": "gpt-4o", "user": "u"}),
        },
        events=[Span.Event(name="First Token Stream Event", time_unix_nano=NOON_NS + 5)],
    )
    assert (seen.provider, seen.request_model, seen.response_model) == (
        "azure",
        "gpt-4o",
        "gpt-4o-2024-08-06",
    )
    assert (seen.streaming, seen.time_to_first_token_ns) == (True, 5)


# Tags


def test_the_nearest_says_who_pays_field_by_field() -> None:
    spans = [
        span({**CHAT, "costwatch.team": "span"}, number=3, parent=2),
        span({"team": "parent", "user.id": "parent"}, number=2, parent=1),
        span({"team": "root", "user.id": "root", "session.id": "root"}, number=1),
    ]
    resource = {"team": "resource", "tenant.id": "resource", "session.id": "resource"}
    body = decoded(*spans, resource=resource)
    [seen] = body.observations
    assert tags_of(body, seen) == Tags("span", None, "resource", "parent", "root")


@pytest.mark.parametrize(
    "attributes",
    [
        {"costwatch.team": "search", "costwatch.customer": "acme", "user.id": "u"},
        {"team": "search", "tenant.id": "acme", "gen_ai.user": "u"},
        {
            "traceloop.association.properties.team": "search",
            "traceloop.association.properties.tenant": "acme",
            "traceloop.association.properties.user_id": "u",
        },
        {"metadata": '{"team": "search", "tenant": "acme", "user_id": "u"}'},
        {"tag.tags": ["prod", "team:search", "customer:acme", "user:u"]},
        {"metadata": '{"user_id": "u", "team": "search"}', "tag.tags": ["team:x", "customer:acme"]},
    ],
)
def test_every_way_to_say_who_pays_is_understood(attributes: Mapping[str, Any]) -> None:
    assert observed({**CHAT, **attributes}).tags == Tags(team="search", customer="acme", user="u")


def test_a_numeric_customer_is_a_customer_and_an_empty_one_is_none() -> None:
    assert observed({**CHAT, "costwatch.customer": 42}).tags.customer == "42"
    assert observed({**CHAT, "metadata": '{"customer": 42}'}).tags.customer == "42"
    assert observed({**CHAT, "costwatch.customer": "", "tenant": "acme"}).tags.customer == "acme"


def test_tags_do_not_cross_traces() -> None:
    other = span({"team": "other"}, number=1, trace_id=bytes([9] * 16))
    body = decoded(span(CHAT, number=2, parent=1), other)
    assert tags_of(body, body.observations[0]).team is None


def test_the_resource_says_which_service_and_environment_it_is() -> None:
    for name in ("deployment.environment", "deployment.environment.name"):
        resource = {"service.name": "shop", name: "prod"}
        [seen] = decoded(span(CHAT), resource=resource).observations
        assert (seen.service_name, seen.environment) == ("shop", "prod")


values = (
    st.text(max_size=20)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.booleans()
    | st.lists(st.text(max_size=5), max_size=2)
)


@given(st.dictionaries(st.sampled_from(sorted(ROWS)), values, max_size=20))
def test_whatever_attributes_say_a_span_is_read(attributes: dict[str, Any]) -> None:
    attributes = {
        k: v.encode("utf-8", "ignore").decode() if isinstance(v, str) else v
        for k, v in attributes.items()
    }
    assert decoded(span(attributes)).items == 1


def test_an_attribute_without_a_value_is_not_there() -> None:
    built = span(CHAT)
    built.attributes.add(key="gen_ai.usage.input_tokens").value.CopyFrom(AnyValue())
    [seen] = decoded(built).observations
    assert seen.provenance is Provenance.ABSENT
    assert request(built).resource_spans


def test_the_longest_name_of_a_scope_counts() -> None:
    assert scope_of("opentelemetry.instrumentation.anthropic").stream_output_is_estimated
    assert not scope_of("opentelemetry.instrumentation.mistralai").stream_output_is_estimated
