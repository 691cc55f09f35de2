"""The table: which attribute means what, and what each instrumentation means by its numbers.

A dialect is added by adding rows. NAMES gives each meaning its attributes, most trusted first; where a span carries
several of them, the first one counts, in whatever order they were sent. SCOPES says who speaks, by the name of the
instrumentation scope. What no row can say (ids inside JSON, a convention's own span kinds) stands in the dialect's file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from collectors import semconv
from collectors.dialects.values import (
    Read,
    flag,
    integer,
    milliseconds_as_ns,
    natural,
    seconds_as_ns,
    text,
    texts,
    whole_text,
)
from collectors.observation import Vantage

# Meanings that are fields of an Observation carry the field's name; the others are worked into them.
INPUT = "input"  # input tokens as the dialect counts them, with cached ones or without
OUTPUT = "output"
TOTAL = "total"
CACHE_READ = "cache_read"
CACHE_WRITE = "cache_write"
REASONING = "reasoning"
KIND = "kind"  # a convention's own kind of span: LLM, CHAIN, workflow, …
API_BASE = "api_base"
INVOCATION = "invocation"  # JSON: the request's parameters
ANSWER = "answer"  # JSON: the provider's answer
METADATA = "metadata"  # JSON: tags
TAG_ITEMS = "tag_items"  # "team:search"

# The attributes of a meaning, most trusted first, and how their values are read.
NAMES: tuple[tuple[str, Read, tuple[str, ...]], ...] = (
    # usage
    (
        INPUT,
        integer,
        (
            semconv.USAGE_INPUT_TOKENS,
            "gen_ai.usage.prompt_tokens",
            "llm.token_count.prompt",
            "llm.usage.prompt_tokens",
        ),
    ),
    (
        OUTPUT,
        integer,
        (
            semconv.USAGE_OUTPUT_TOKENS,
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
            "llm.usage.completion_tokens",
        ),
    ),
    (
        TOTAL,
        integer,
        ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    ),
    (
        CACHE_READ,
        integer,
        (
            semconv.USAGE_CACHE_READ_INPUT_TOKENS,
            "gen_ai.usage.cache_read_input_tokens",
            "llm.token_count.prompt_details.cache_read",
            "gen_ai.usage.cache_read_tokens",
        ),
    ),
    (
        CACHE_WRITE,
        integer,
        (
            "gen_ai.usage.cache_write.input_tokens",
            semconv.USAGE_CACHE_WRITE_INPUT_TOKENS,
            "gen_ai.usage.cache_creation_input_tokens",
            "llm.token_count.prompt_details.cache_write",
            "gen_ai.usage.cache_write_tokens",
        ),
    ),
    (
        REASONING,
        integer,
        (
            semconv.USAGE_REASONING_OUTPUT_TOKENS,
            "gen_ai.usage.reasoning_tokens",
            "llm.usage.reasoning_tokens",
            "llm.token_count.completion_details.reasoning",
        ),
    ),
    # what was asked, of whom, and what came back
    ("operation", text, (semconv.OPERATION_NAME, "llm.request.type")),
    (KIND, text, ("openinference.span.kind", "traceloop.span.kind")),
    ("provider", text, (semconv.PROVIDER_NAME, "gen_ai.system", "llm.provider", "llm.system")),
    ("request_model", text, (semconv.REQUEST_MODEL, "llm.request.model_name", "llm.request.model")),
    (
        "response_model",
        text,
        (
            semconv.RESPONSE_MODEL,
            "llm.response.model_name",
            "llm.response.model",
            "llm.model_name",
            "embedding.model_name",
            "reranker.model_name",
        ),
    ),
    ("response_id", text, (semconv.RESPONSE_ID, "gen_ai.request.id")),
    (
        "service_tier",
        text,
        (
            "openai.response.service_tier",
            "gen_ai.openai.response.service_tier",
            "anthropic.response.service_tier",
            "gen_ai.response.service_tier",
        ),
    ),
    ("server_address", text, (semconv.SERVER_ADDRESS,)),
    (API_BASE, text, ("gen_ai.openai.api_base", "openai.api_base")),
    (
        "streaming",
        flag,
        (semconv.REQUEST_STREAM, "gen_ai.is_streaming", "llm.is_streaming"),
    ),
    ("error_type", text, (semconv.ERROR_TYPE,)),
    (
        INVOCATION,
        whole_text,
        ("llm.invocation_parameters", "embedding.invocation_parameters"),
    ),
    (ANSWER, whole_text, ("output.value",)),
    # times
    (
        "time_to_first_token_ns",
        natural,
        (semconv.TIME_TO_FIRST_TOKEN_NS,),
    ),
    (
        "time_to_first_token_ns",
        seconds_as_ns,
        (
            semconv.RESPONSE_TIME_TO_FIRST_CHUNK,
            "gen_ai.server.time_to_first_token",
            "gen_ai.latency.time_to_first_token",
        ),
    ),
    ("time_to_first_token_ns", milliseconds_as_ns, ("ai.response.msToFirstChunk",)),
    ("time_per_output_token_ns", natural, (semconv.TIME_PER_OUTPUT_TOKEN_NS,)),
    ("time_per_output_token_ns", seconds_as_ns, ("gen_ai.server.time_per_output_token",)),
    ("queue_ns", natural, (semconv.QUEUE_NS,)),
    ("queue_ns", seconds_as_ns, ("gen_ai.latency.time_in_queue",)),
    ("prefill_ns", natural, (semconv.PREFILL_NS,)),
    ("prefill_ns", seconds_as_ns, ("gen_ai.latency.time_in_model_prefill",)),
    ("decode_ns", natural, (semconv.DECODE_NS,)),
    ("decode_ns", seconds_as_ns, ("gen_ai.latency.time_in_model_decode",)),
    # our runtime
    ("device_ns", natural, (semconv.DEVICE_NS,)),
    ("device_ns_marginal", natural, (semconv.DEVICE_NS_MARGINAL,)),
    ("device_ns_alone", natural, (semconv.DEVICE_NS_ALONE,)),
    ("energy_uj", natural, (semconv.ENERGY_UJ,)),
    ("device_type", text, (semconv.DEVICE_TYPE,)),
    ("allocation_method", text, (semconv.ALLOCATION_METHOD,)),
    ("prefix_repeated_tokens", natural, (semconv.PREFIX_REPEATED_TOKENS,)),
    ("request_repeated", flag, (semconv.REQUEST_REPEATED,)),
)

# Who pays: on a span, on its ancestors and on the resource.
TAG_NAMES: tuple[tuple[str, Read, tuple[str, ...]], ...] = (
    ("team", text, (semconv.TEAM, "traceloop.association.properties.team", "team")),
    ("feature", text, (semconv.FEATURE, "traceloop.association.properties.feature", "feature")),
    (
        "customer",
        text,
        (
            semconv.CUSTOMER,
            "traceloop.association.properties.customer",
            "traceloop.association.properties.customer_id",
            "traceloop.association.properties.tenant",
            "customer.id",
            "tenant.id",
            "customer",
            "tenant",
        ),
    ),
    (
        "user",
        text,
        (
            semconv.USER,
            "traceloop.association.properties.user_id",
            "gen_ai.user",
            "gen_ai.request.user",
            "llm.user",
            "enduser.id",
            "user_id",
        ),
    ),
    (
        "session",
        text,
        (
            semconv.SESSION,
            "traceloop.association.properties.session_id",
            "gen_ai.conversation.id",
            "session_id",
        ),
    ),
    (METADATA, whole_text, ("metadata",)),
    (TAG_ITEMS, texts, ("tag.tags",)),
)

# The same tags inside a JSON object such as OpenInference's `metadata`, most trusted first.
METADATA_NAMES: Mapping[str, tuple[str, ...]] = {
    "team": (semconv.TEAM, "team"),
    "feature": (semconv.FEATURE, "feature"),
    "customer": (semconv.CUSTOMER, "customer", "customer_id", "tenant", "tenant_id"),
    "user": ("user_id", "user"),
    "session": ("session_id", "session", "thread_id"),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Who speaks. `name` is the beginning of an instrumentation scope's name.

    stream_output_is_estimated   the output count of a stream is this library's own sum, not the provider's
    """

    name: str
    dialect: str
    vantage: Vantage = Vantage.CLIENT
    input_excludes_cache: bool = False
    stream_output_is_estimated: bool = False


# The longest name that fits counts.
SCOPES: tuple[Scope, ...] = (
    Scope("opentelemetry.instrumentation.openai_v2", "otel_genai"),
    Scope("opentelemetry.instrumentation.genai.", "otel_genai"),
    Scope("opentelemetry.instrumentation.google_genai", "otel_genai"),
    Scope("opentelemetry.instrumentation.vertexai_v2", "otel_genai"),
    Scope("opentelemetry.instrumentation.botocore", "otel_genai"),
    Scope("opentelemetry.util.genai", "otel_genai"),
    Scope("@opentelemetry/instrumentation-openai", "otel_genai"),
    Scope("com.anthropic.sdk.", "anthropic_sdk"),
    # OpenLLMetry took the general prefix: its packages are opentelemetry-instrumentation-<provider>.
    Scope("opentelemetry.instrumentation.", "openllmetry"),
    # It adds the token of message_start to the provider's final count.
    Scope(
        "opentelemetry.instrumentation.anthropic", "openllmetry", stream_output_is_estimated=True
    ),
    Scope("opentelemetry.instrumentation.langchain", "openllmetry", Vantage.FRAMEWORK),
    Scope("opentelemetry.instrumentation.llamaindex", "openllmetry", Vantage.FRAMEWORK),
    Scope("opentelemetry.instrumentation.haystack", "openllmetry", Vantage.FRAMEWORK),
    Scope("opentelemetry.instrumentation.crewai", "openllmetry", Vantage.FRAMEWORK),
    Scope("opentelemetry.instrumentation.openai_agents", "openllmetry", Vantage.FRAMEWORK),
    Scope("traceloop", "openllmetry", Vantage.FRAMEWORK),
    Scope("@traceloop/", "openllmetry"),
    Scope("openinference.instrumentation.", "openinference", Vantage.FRAMEWORK),
    Scope("openinference.instrumentation.openai", "openinference"),
    Scope("openinference.instrumentation.openai_agents", "openinference", Vantage.FRAMEWORK),
    Scope("openinference.instrumentation.anthropic", "openinference"),
    Scope("openinference.instrumentation.bedrock", "openinference"),
    Scope("openinference.instrumentation.google_genai", "openinference"),
    Scope("openinference.instrumentation.groq", "openinference"),
    Scope("openinference.instrumentation.mistralai", "openinference"),
    Scope("openinference.instrumentation.vertexai", "openinference"),
    Scope("@arizeai/openinference-instrumentation-", "openinference", Vantage.FRAMEWORK),
    Scope("@arizeai/openinference-instrumentation-openai", "openinference"),
    Scope("@arizeai/openinference-instrumentation-anthropic", "openinference"),
    Scope("@arizeai/openinference-instrumentation-bedrock", "openinference"),
    Scope("vllm.", "vllm", Vantage.SERVER),
)
