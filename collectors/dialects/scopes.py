"""Who speaks, by the name of the instrumentation scope, and what that library means by its numbers.

The longest row that fits a scope's name counts. A scope that no row fits is known by the kinds of its spans, if at all.
"""

from dataclasses import dataclass

from collectors.observation import Vantage


@dataclass(frozen=True, slots=True)
class Scope:
    """One row. `name` is the beginning of a scope's name, or all of it where `whole` says so.

    input_excludes_cache                its input tokens do not include those read from or written to a cache
    stream_output_is_estimated          the output count of a stream is this library's own sum, not the provider's
    stream_without_cache_is_estimated   where the provider counted a stream, the span names cached tokens, if only as
                                        zero; where it names none, the library counted, or left out what was cached
    """

    name: str
    dialect: str
    vantage: Vantage = Vantage.CLIENT
    whole: bool = False
    input_excludes_cache: bool = False
    stream_output_is_estimated: bool = False
    stream_without_cache_is_estimated: bool = False


_FRAMEWORK = Vantage.FRAMEWORK

SCOPES: tuple[Scope, ...] = (
    # OpenTelemetry's own
    Scope("opentelemetry.instrumentation.openai_v2", "otel_genai"),
    Scope("opentelemetry.instrumentation.genai.", "otel_genai"),
    Scope("opentelemetry.instrumentation.google_genai", "otel_genai"),
    Scope("opentelemetry.instrumentation.vertexai_v2", "otel_genai"),
    Scope("opentelemetry.instrumentation.botocore", "otel_genai"),
    Scope("opentelemetry.util.genai", "otel_genai"),
    Scope("@opentelemetry/instrumentation-openai", "otel_genai"),
    Scope("com.anthropic.sdk.", "anthropic_sdk"),
    # Google's Agent Development Kit: around the client, in the names of GenAI
    Scope("gcp.vertex.agent", "otel_genai", _FRAMEWORK),
    # OpenLLMetry took the general prefix: its packages are opentelemetry-instrumentation-<provider>.
    Scope("opentelemetry.instrumentation.", "openllmetry"),
    # It adds the token of message_start to the provider's final count.
    Scope(
        "opentelemetry.instrumentation.anthropic", "openllmetry", stream_output_is_estimated=True
    ),
    Scope("opentelemetry.instrumentation.langchain", "openllmetry", _FRAMEWORK),
    Scope("opentelemetry.instrumentation.llamaindex", "openllmetry", _FRAMEWORK),
    Scope("opentelemetry.instrumentation.haystack", "openllmetry", _FRAMEWORK),
    Scope("opentelemetry.instrumentation.crewai", "openllmetry", _FRAMEWORK),
    Scope("opentelemetry.instrumentation.openai_agents", "openllmetry", _FRAMEWORK),
    Scope("traceloop", "openllmetry", _FRAMEWORK),
    Scope("@traceloop/", "openllmetry"),
    # OpenInference
    Scope("openinference.instrumentation.", "openinference", _FRAMEWORK),
    Scope("openinference.instrumentation.openai", "openinference"),
    Scope("openinference.instrumentation.openai_agents", "openinference", _FRAMEWORK),
    # In 2025 its streams named neither what was read from a cache nor what was written.
    Scope(
        "openinference.instrumentation.anthropic",
        "openinference",
        stream_without_cache_is_estimated=True,
    ),
    Scope("openinference.instrumentation.bedrock", "openinference"),
    Scope("openinference.instrumentation.google_genai", "openinference"),
    Scope("openinference.instrumentation.groq", "openinference"),
    Scope("openinference.instrumentation.mistralai", "openinference"),
    Scope("openinference.instrumentation.vertexai", "openinference"),
    Scope("@arizeai/openinference-instrumentation-", "openinference", _FRAMEWORK),
    Scope("@arizeai/openinference-instrumentation-openai", "openinference"),
    Scope("@arizeai/openinference-instrumentation-anthropic", "openinference"),
    Scope("@arizeai/openinference-instrumentation-bedrock", "openinference"),
    # OpenLIT counts with a tokenizer of its own what a stream did not bring, and does not say so.
    Scope("openlit", "openlit", stream_without_cache_is_estimated=True),
    Scope("openlit.instrumentation.anthropic", "openlit", input_excludes_cache=True),
    Scope("openlit.instrumentation.langchain", "openlit", _FRAMEWORK),
    Scope("openlit.instrumentation.llamaindex", "openlit", _FRAMEWORK),
    Scope("openlit.instrumentation.haystack", "openlit", _FRAMEWORK),
    Scope("openlit.instrumentation.crewai", "openlit", _FRAMEWORK),
    Scope("openlit.instrumentation.litellm", "openlit", _FRAMEWORK),
    Scope("openlit.instrumentation.openai_agents", "openlit", _FRAMEWORK),
    Scope("openlit.instrumentation.pydantic_ai", "openlit", _FRAMEWORK),
    # others
    Scope("litellm", "litellm", _FRAMEWORK),
    Scope("langfuse-sdk", "langfuse", _FRAMEWORK),
    Scope("logfire.", "logfire"),
    Scope("pydantic-ai", "pydantic_ai", _FRAMEWORK),
    Scope("pydantic_ai", "pydantic_ai", _FRAMEWORK),
    # The AI SDK talks to providers itself. Its scopes' names are too short to be beginnings.
    Scope("ai", "vercel", whole=True),
    Scope("gen_ai", "vercel", whole=True),
    Scope("vllm.", "vllm", Vantage.SERVER),
    # It says its requests' phases in vLLM's names (convert_to_gen_ai_span_attrs).
    Scope("sglang", "vllm", Vantage.SERVER),
)
