"""The table: which attribute means what, whoever sends it.

A dialect is added by adding rows. NAMES gives each meaning its attributes, most trusted first; where a span carries
several of them, the first one counts, in whatever order they were sent. TAG_NAMES does the same for who pays. Who
speaks, and what that library means by its numbers, is said by the rows of scopes.py. What no row can say (counts inside
JSON, a convention's own span kinds) stands in the dialect's file.
"""

from collections.abc import Mapping

from collectors import semconv
from collectors.dialects.values import (
    Read,
    flag,
    integer,
    milliseconds_as_ns,
    moment,
    natural,
    seconds_as_ns,
    text,
    texts,
    unquoted,
    whole_text,
    written_duration_as_ns,
)

# Meanings that are fields of an Observation carry the field's name; the others are worked into them.
INPUT = "input"  # input tokens as the dialect counts them, with cached ones or without
FRESH = "fresh"  # input tokens that met no cache
OUTPUT = "output"
TOTAL = "total"
CACHE_READ = "cache_read"
CACHE_WRITE = "cache_write"
REASONING = "reasoning"
THOUGHTS = "thoughts"  # reasoning as Google counts it: beside the output, not in it
USAGE = "usage_object"  # the provider's own usage object, as JSON or as Python writes it
RAW_USAGE = "raw_usage"  # the same on LiteLLM's span around the bare request
KIND = "kind"  # a convention's own kind of span: LLM, CHAIN, workflow, …
LOCAL_ID = "local_id"  # an id that the library made up, and may also give as the provider's
PROVIDER_AND_MODEL = "provider_and_model"  # "openai/gpt-4o"
PROVIDER_METADATA = "provider_metadata"  # JSON: what a provider said beside the answer
ROUTE = "route"  # the gateway's path that was called
API_BASE = "api_base"
PARAMETERS = "parameters"  # JSON in which an api_base may stand
INVOCATION = "invocation"  # JSON: the request's parameters
ANSWER = "answer"  # JSON: the provider's answer
ANSWER_TYPE = "answer_type"  # the answer's media type
LEVEL = "level"  # ERROR, DEFAULT, …
FIRST_TOKEN_UNIX_NS = "first_token_unix_ns"
SPAN_TYPE = "span_type"  # Logfire's: span, pending_span, log
DURATION_NS = "duration_ns"  # of what a span without a duration of its own speaks about
METADATA = "metadata"  # JSON: tags
TGI_INFERENCE_NS = "tgi_inference_ns"  # TGI's own names, of a request that was answered
TGI_QUEUE_NS = "tgi_queue_ns"
TGI_PER_TOKEN_NS = "tgi_per_token_ns"
TAG_ITEMS = "tag_items"  # "team:search"

# As LiteLLM calls them in its attributes; it writes None where it does not know.
# fmt: off
_LITELLM_PROVIDERS = (
    "None", "Unknown", "openai", "azure", "azure_ai", "anthropic", "bedrock",
    "bedrock_converse", "vertex_ai", "vertex_ai_beta", "gemini", "cohere", "cohere_chat",
    "mistral", "groq", "deepseek", "xai", "together_ai", "fireworks_ai", "openrouter",
    "perplexity", "databricks", "watsonx", "sagemaker", "sagemaker_chat", "hosted_vllm", "vllm",
    "ollama", "ollama_chat", "lm_studio", "llamafile", "openai_like", "custom_openai",
    "litellm_proxy", "text-completion-openai", "azure_text", "nvidia_nim", "cerebras",
    "sambanova", "huggingface", "replicate", "deepinfra", "github", "github_copilot",
    "anyscale", "voyage", "jina_ai", "cloudflare", "moonshot", "dashscope", "volcengine",
    "snowflake", "triton",
)
# fmt: on

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
            "ai.usage.inputTokens",
            "ai.usage.promptTokens",
            "ai.usage.tokens",
            "gen_ai.response.prompt_tokens",
        ),
    ),
    (FRESH, integer, ("ai.usage.inputTokenDetails.noCacheTokens",)),
    (
        OUTPUT,
        integer,
        (
            semconv.USAGE_OUTPUT_TOKENS,
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
            "llm.usage.completion_tokens",
            "ai.usage.outputTokens",
            "ai.usage.completionTokens",
            "gen_ai.response.completion_tokens",
        ),
    ),
    (
        TOTAL,
        integer,
        (
            "gen_ai.usage.total_tokens",
            "llm.usage.total_tokens",
            "llm.token_count.total",
            "ai.usage.totalTokens",
        ),
    ),
    (
        CACHE_READ,
        integer,
        (
            semconv.USAGE_CACHE_READ_INPUT_TOKENS,
            "gen_ai.usage.cache_read_input_tokens",
            "llm.token_count.prompt_details.cache_read",
            "gen_ai.usage.cache_read_tokens",
            "ai.usage.inputTokenDetails.cacheReadTokens",
            "ai.usage.cachedInputTokens",
            "gen_ai.usage.details.cache_read_tokens",
            "gen_ai.usage.details.cache_read_input_tokens",
            "gen_ai.usage.details.cached_tokens",
            "gen_ai.usage.cached_tokens",
            "gen_ai.usage.cached_input_tokens",
            "gen_ai.usage.cached_content_tokens",
            "gen_ai.usage.cached_content_token_count",
            "gen_ai.usage.input_tokens.cached",
            "llm.usage.cache_read_input_tokens",
            "llm.token_count.prompt_details.cache_input",
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
            "gen_ai.usage.cache_write_input_tokens",
            "gen_ai.usage.cache_creation_tokens",
            "ai.usage.inputTokenDetails.cacheWriteTokens",
            "gen_ai.usage.details.cache_write_tokens",
            "gen_ai.usage.details.cache_creation_input_tokens",
            "gen_ai.usage.input_tokens.cache_write",
            "llm.usage.cache_creation_input_tokens",
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
            "ai.usage.outputTokenDetails.reasoningTokens",
            "ai.usage.reasoningTokens",
            "gen_ai.usage.details.reasoning_tokens",
            "gen_ai.usage.output_reasoning_tokens",
            "gen_ai.usage.output_tokens.reasoning",
        ),
    ),
    (
        THOUGHTS,
        integer,
        (
            "gen_ai.usage.thoughts_tokens",
            "gen_ai.usage.thoughts_token_count",
            "gen_ai.usage.experimental.reasoning_tokens",
        ),
    ),
    (
        USAGE,
        whole_text,
        ("gen_ai.usage.raw", "langfuse.observation.usage_details", "metadata.usage_object"),
    ),
    (
        RAW_USAGE,
        whole_text,
        tuple(
            f"llm.{provider}.{name}"
            for name in ("usage", "usageMetadata")
            for provider in _LITELLM_PROVIDERS
        ),
    ),
    # what was asked, of whom, and what came back
    ("operation", text, (semconv.OPERATION_NAME, "llm.request.type")),
    (
        KIND,
        text,
        (
            "openinference.span.kind",
            "traceloop.span.kind",
            "langfuse.observation.type",
            "ai.operationId",
        ),
    ),
    (
        "provider",
        text,
        (
            semconv.PROVIDER_NAME,
            "gen_ai.system",
            "llm.provider",
            "llm.system",
            "ai.model.provider",
            "llm.vendor",
        ),
    ),
    (PROVIDER_AND_MODEL, text, ("litellm.provider.model",)),
    (
        "request_model",
        text,
        (
            semconv.REQUEST_MODEL,
            "llm.request.model_name",
            "llm.request.model",
            "ai.model.id",
        ),
    ),
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
            "ai.response.model",
            "langfuse.observation.model.name",
        ),
    ),
    ("response_id", text, (semconv.RESPONSE_ID, "gen_ai.request.id", "ai.response.id")),
    (LOCAL_ID, text, ("litellm.call_id",)),
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
    (PARAMETERS, whole_text, ("hidden_params",)),
    (ROUTE, text, ("metadata.user_api_key_request_route",)),
    (
        "streaming",
        flag,
        (
            semconv.REQUEST_STREAM,
            "gen_ai.is_streaming",
            "llm.is_streaming",
            "gen_ai.request.is_stream",
            "gen_ai.request.streaming",
        ),
    ),
    ("error_type", text, (semconv.ERROR_TYPE,)),
    (LEVEL, text, ("langfuse.observation.level",)),
    (SPAN_TYPE, text, ("logfire.span_type",)),
    (
        INVOCATION,
        whole_text,
        ("llm.invocation_parameters", "embedding.invocation_parameters"),
    ),
    (ANSWER, whole_text, ("output.value", "response_data")),
    (ANSWER_TYPE, text, ("output.mime_type",)),
    (PROVIDER_METADATA, whole_text, ("ai.response.providerMetadata",)),
    # times
    ("time_to_first_token_ns", natural, (semconv.TIME_TO_FIRST_TOKEN_NS,)),
    (
        "time_to_first_token_ns",
        seconds_as_ns,
        (
            semconv.RESPONSE_TIME_TO_FIRST_CHUNK,
            "gen_ai.client.operation.time_to_first_chunk",
            "gen_ai.server.time_to_first_token",
            "gen_ai.latency.time_to_first_token",
        ),
    ),
    ("time_to_first_token_ns", milliseconds_as_ns, ("ai.response.msToFirstChunk",)),
    (FIRST_TOKEN_UNIX_NS, moment, ("langfuse.observation.completion_start_time",)),
    ("time_per_output_token_ns", natural, (semconv.TIME_PER_OUTPUT_TOKEN_NS,)),
    ("time_per_output_token_ns", seconds_as_ns, ("gen_ai.server.time_per_output_token",)),
    (DURATION_NS, seconds_as_ns, ("duration",)),
    ("queue_ns", natural, (semconv.QUEUE_NS,)),
    ("queue_ns", seconds_as_ns, ("gen_ai.latency.time_in_queue",)),
    ("prefill_ns", natural, (semconv.PREFILL_NS,)),
    ("prefill_ns", seconds_as_ns, ("gen_ai.latency.time_in_model_prefill",)),
    ("decode_ns", natural, (semconv.DECODE_NS,)),
    ("decode_ns", seconds_as_ns, ("gen_ai.latency.time_in_model_decode",)),
    (TGI_INFERENCE_NS, written_duration_as_ns, ("inference_time",)),
    (TGI_QUEUE_NS, written_duration_as_ns, ("queue_time",)),
    (TGI_PER_TOKEN_NS, written_duration_as_ns, ("time_per_token",)),
    # our runtime
    ("device_ns", natural, (semconv.DEVICE_NS,)),
    ("device_ns_marginal", natural, (semconv.DEVICE_NS_MARGINAL,)),
    ("device_ns_alone", natural, (semconv.DEVICE_NS_ALONE,)),
    ("energy_uj", natural, (semconv.ENERGY_UJ,)),
    ("device_type", text, (semconv.DEVICE_TYPE,)),
    ("device_ids", text, (semconv.HW_ID,)),
    ("allocation_method", text, (semconv.ALLOCATION_METHOD,)),
    ("prefix_repeated_tokens", natural, (semconv.PREFIX_REPEATED_TOKENS,)),
    ("request_repeated", flag, (semconv.REQUEST_REPEATED,)),
    # collectors/fingerprints.py
    ("request_hash", text, (semconv.REQUEST_HASH,)),
    ("prefix_hashes", text, (semconv.PREFIX_HASHES,)),
    ("prompt_bytes", natural, (semconv.PROMPT_BYTES,)),
    ("request_deterministic", flag, (semconv.REQUEST_DETERMINISTIC,)),
)


def _said_as(*fields: str) -> tuple[str, ...]:
    """A tag under the prefixes that libraries put before an application's own names."""
    prefixes = ("traceloop.association.properties.", "ai.telemetry.metadata.")
    return tuple(prefix + field for prefix in prefixes for field in fields)


def _quoted_as(*fields: str) -> tuple[str, ...]:
    """The same where values are JSON."""
    prefixes = ("langfuse.trace.metadata.", "langfuse.observation.metadata.")
    return tuple(prefix + field for prefix in prefixes for field in fields)


# Who pays: on a span, on its ancestors and on the resource.
TAG_NAMES: tuple[tuple[str, Read, tuple[str, ...]], ...] = (
    ("team", text, (semconv.TEAM, *_said_as("team"))),
    ("team", unquoted, _quoted_as("team")),
    ("team", text, ("metadata.user_api_key_team_alias", "team")),
    ("feature", text, (semconv.FEATURE, *_said_as("feature"), "feature")),
    ("feature", unquoted, _quoted_as("feature")),
    ("customer", text, (semconv.CUSTOMER, *_said_as("customer", "customer_id", "customerId"))),
    ("customer", text, _said_as("tenant", "tenant_id", "tenantId")),
    ("customer", unquoted, _quoted_as("customer", "customer_id", "tenant", "tenant_id")),
    ("customer", text, ("customer.id", "tenant.id", "customer", "tenant")),
    ("user", text, (semconv.USER, "langfuse.user.id", *_said_as("user_id", "userId"))),
    ("user", unquoted, _quoted_as("user_id", "langfuse_user_id")),
    (
        "user",
        text,
        (
            "metadata.user_api_key_user_id",
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
            "langfuse.session.id",
            *_said_as("session_id", "sessionId"),
        ),
    ),
    ("session", unquoted, _quoted_as("session_id", "langfuse_session_id")),
    ("session", text, ("gen_ai.conversation.id", "session_id")),
    (
        METADATA,
        whole_text,
        ("metadata", "langfuse.trace.metadata", "langfuse.observation.metadata"),
    ),
    (
        TAG_ITEMS,
        texts,
        ("tag.tags", "ai.telemetry.metadata.tags", "langfuse.trace.tags", "logfire.tags"),
    ),
)

# The same tags inside a JSON object such as OpenInference's `metadata`, most trusted first.
METADATA_NAMES: Mapping[str, tuple[str, ...]] = {
    "team": (semconv.TEAM, "team"),
    "feature": (semconv.FEATURE, "feature"),
    "customer": (semconv.CUSTOMER, "customer", "customer_id", "tenant", "tenant_id"),
    "user": ("user_id", "user"),
    "session": ("session_id", "session", "thread_id"),
}
