"""The table: which metric counts what, whoever sends it.

A runtime or a library is added by adding rows. Names come as OpenTelemetry's SDKs send them and as Prometheus writes
them (`vllm:prompt_tokens_total`, `vllm_prompt_tokens`): canonical() makes them one.

Where a histogram counts tokens, each of its measurements is a call; `calls_in_count` says so, on the row that every
call has exactly once: embeddings have no output.
"""

from collections.abc import Mapping
from typing import NamedTuple

from collectors.observation import Meter, Vantage

_CLIENT, _GATEWAY, _SERVER = Vantage.CLIENT, Vantage.GATEWAY, Vantage.SERVER
# Families: what one library counts once, by several metrics beside each other.
_TOKEN_USAGE = "gen_ai.client.token.usage"
_INFERENCE_USAGE = "gen_ai.client.inference.usage"
_OLD_OPENLIT, _OLD_OPENLLMETRY = "gen_ai.usage", "llm.usage"


class TokenMetric(NamedTuple):
    """What one metric counts. meter None: an attribute of its points says it."""

    name: str
    family: str
    meter: Meter | None
    vantage: Vantage = _CLIENT
    provider: str = ""  # where its points name none
    calls_in_count: bool = False


_TOKEN_METRICS = (
    # OpenTelemetry's conventions, and OpenLLMetry, OpenLIT, LiteLLM, pydantic-ai and .NET after them
    TokenMetric(_TOKEN_USAGE, _TOKEN_USAGE, None, calls_in_count=True),
    # its successor: counters for the sums, histograms for one call's
    TokenMetric("gen_ai.client.inference.usage.input_tokens", _INFERENCE_USAGE, Meter.INPUT),
    TokenMetric("gen_ai.client.inference.usage.output_tokens", _INFERENCE_USAGE, Meter.OUTPUT),
    TokenMetric(
        "gen_ai.client.inference.usage.cache_read.input_tokens",
        _INFERENCE_USAGE,
        Meter.CACHE_READ,
    ),
    TokenMetric(
        "gen_ai.client.inference.usage.cache_write.input_tokens",
        _INFERENCE_USAGE,
        Meter.CACHE_WRITE,
    ),
    TokenMetric(
        "gen_ai.client.inference.usage.reasoning.output_tokens", _INFERENCE_USAGE, Meter.REASONING
    ),
    TokenMetric("gen_ai.client.inference.operation.input_tokens", _INFERENCE_USAGE, Meter.CALLS),
    # OpenLIT before 1.44
    TokenMetric("gen_ai.usage.input_tokens", _OLD_OPENLIT, Meter.INPUT),
    TokenMetric("gen_ai.usage.prompt_tokens", _OLD_OPENLIT, Meter.INPUT),
    TokenMetric("gen_ai.usage.output_tokens", _OLD_OPENLIT, Meter.OUTPUT),
    TokenMetric("gen_ai.usage.completion_tokens", _OLD_OPENLIT, Meter.OUTPUT),
    TokenMetric("gen_ai.usage.reasoning_tokens", _OLD_OPENLIT, Meter.REASONING),
    TokenMetric("gen_ai.total.requests", _OLD_OPENLIT, Meter.CALLS),
    # OpenLLMetry before the conventions had metrics
    TokenMetric("llm.openai.chat_completions.tokens", _OLD_OPENLLMETRY, None, provider="openai"),
    TokenMetric("llm.openai.embeddings.tokens", _OLD_OPENLLMETRY, None, provider="openai"),
    TokenMetric("llm.anthropic.completion.tokens", _OLD_OPENLLMETRY, None, provider="anthropic"),
    TokenMetric("llm.watsonx.completions.tokens", _OLD_OPENLLMETRY, None, provider="watsonx"),
    # LiteLLM's proxy, for Prometheus
    TokenMetric("litellm_input_tokens_metric", "litellm", Meter.INPUT, _GATEWAY),
    TokenMetric("litellm_output_tokens_metric", "litellm", Meter.OUTPUT, _GATEWAY),
    TokenMetric("litellm_input_cached_tokens_metric", "litellm", Meter.CACHE_READ, _GATEWAY),
    TokenMetric("litellm_output_reasoning_tokens_metric", "litellm", Meter.REASONING, _GATEWAY),
    TokenMetric("litellm_requests_metric", "litellm", Meter.CALLS, _GATEWAY),
    # vLLM
    TokenMetric("vllm:prompt_tokens", "vllm", Meter.INPUT, _SERVER, "vllm"),
    TokenMetric("vllm:generation_tokens", "vllm", Meter.OUTPUT, _SERVER, "vllm"),
    TokenMetric("vllm:prompt_tokens_cached", "vllm", Meter.CACHE_READ, _SERVER, "vllm"),
    TokenMetric("vllm:request_success", "vllm", Meter.CALLS, _SERVER, "vllm"),
    # SGLang
    TokenMetric("sglang:prompt_tokens", "sglang", Meter.INPUT, _SERVER, "sglang"),
    TokenMetric("sglang:generation_tokens", "sglang", Meter.OUTPUT, _SERVER, "sglang"),
    TokenMetric("sglang:cached_tokens", "sglang", Meter.CACHE_READ, _SERVER, "sglang"),
    TokenMetric("sglang:num_requests", "sglang", Meter.CALLS, _SERVER, "sglang"),
    # TGI has no counters of tokens; its histograms sum them request by request
    TokenMetric("tgi_request_input_length", "tgi", Meter.INPUT, _SERVER, "tgi", True),
    TokenMetric("tgi_request_generated_tokens", "tgi", Meter.OUTPUT, _SERVER, "tgi"),
)

# What the attribute that names the kind of token may say.
TOKEN_TYPE_NAMES = ("gen_ai.token.type", "llm.usage.token_type")
METERS: Mapping[str, Meter] = {
    "input": Meter.INPUT,
    "prompt": Meter.INPUT,
    "output": Meter.OUTPUT,
    "completion": Meter.OUTPUT,
    "cache_read": Meter.CACHE_READ,
    "cached_input": Meter.CACHE_READ,
    "input_cached": Meter.CACHE_READ,
    "cache_write": Meter.CACHE_WRITE,
    "cache_creation": Meter.CACHE_WRITE,
    "reasoning": Meter.REASONING,
}
# Prometheus' labels, where no attribute of the conventions says it.
MODEL_NAMES = ("model_name", "model", "model_id", "requested_model")
TEAM_NAMES = ("team_alias",)


def canonical(name: str) -> str:
    """One name for what OpenTelemetry, Prometheus and the ways between them write differently."""
    return name.replace(":", "_").replace(".", "_").removesuffix("_total")


_BY_NAME = {canonical(metric.name): metric for metric in _TOKEN_METRICS}


def token_metric(name: str) -> TokenMetric | None:
    """The row for a metric; None where it counts no tokens and no calls."""
    return _BY_NAME.get(canonical(name))
