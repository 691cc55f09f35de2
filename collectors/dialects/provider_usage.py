"""A provider's own usage object → counts, whichever provider's it is.

What the object calls its input says whose it is, and with that whether cached tokens are part of it, and reasoning part
of the output. The counts that come back include both, as OpenTelemetry's do.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from collectors.dialects.table import CACHE_READ, CACHE_WRITE, INPUT, OUTPUT, REASONING, TOTAL


class _Shape(NamedTuple):
    """Names of one provider's counts, and what lies beside them instead of in them."""

    input: str
    output: str
    total: str
    cache_is_beside: bool = False
    reasoning_is_beside: bool = False


_OPENAI = _Shape("prompt_tokens", "completion_tokens", "total_tokens")
_RESPONSES = _Shape("input_tokens", "output_tokens", "total_tokens")
_ANTHROPIC = _RESPONSES._replace(cache_is_beside=True)
_GOOGLE = _Shape(
    "prompt_token_count",
    "candidates_token_count",
    "total_token_count",
    reasoning_is_beside=True,
)
_GOOGLE_JSON = _GOOGLE._replace(
    input="promptTokenCount", output="candidatesTokenCount", total="totalTokenCount"
)
_BEDROCK = _Shape("inputTokens", "outputTokens", "totalTokens", cache_is_beside=True)
_CAMEL = _Shape("promptTokens", "completionTokens", "totalTokens")
_OLLAMA = _Shape("prompt_eval_count", "eval_count", "")
# By what the input is called, the surest first: LiteLLM gives OpenAI's names with Anthropic's beside them.
_SHAPES = (_OPENAI, _ANTHROPIC, _GOOGLE, _GOOGLE_JSON, _BEDROCK, _CAMEL, _OLLAMA)

_DETAILS = (
    "prompt_tokens_details",
    "input_tokens_details",
    "input_token_details",
    "completion_tokens_details",
    "output_tokens_details",
    "output_token_details",
)
_CACHE_READ = (
    "cache_read_input_tokens",
    "cacheReadInputTokens",
    "cacheReadInputTokenCount",
    "cachedInputTokens",
    "cached_content_token_count",
    "cachedContentTokenCount",
    "prompt_cache_hit_tokens",
    "cached_tokens",
    "cache_read",
)
_CACHE_WRITE = (
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
    "cacheWriteInputTokenCount",
    "cache_write_tokens",
    "cache_creation_tokens",
    "cache_creation",
    "cache_write",
)
_REASONING = (
    "reasoning_tokens",
    "thoughts_token_count",
    "thoughtsTokenCount",
    "reasoning",
)
# Only Anthropic's and Bedrock's own objects carry these beside an input without them.
_BESIDE = frozenset(
    {
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "cacheReadInputTokens",
        "cacheWriteInputTokens",
    }
)


def counts_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """Counts by their meaning in the table; empty where this is no usage object that we know."""
    shape = next((shape for shape in _SHAPES if _count(usage.get(shape.input)) is not None), None)
    if shape is None:
        return {}
    said = _with_details(usage)
    read, write, reasoning = (_first(said, n) for n in (_CACHE_READ, _CACHE_WRITE, _REASONING))
    input_, output = _count(said[shape.input]), _count(said.get(shape.output))
    if input_ is not None and shape.cache_is_beside and not _BESIDE.isdisjoint(usage):
        input_ += (read or 0) + (write or 0)
    if shape.reasoning_is_beside and (output is not None or reasoning is not None):
        output = (output or 0) + (reasoning or 0)
    counts = {
        INPUT: input_,
        OUTPUT: output,
        TOTAL: _count(said.get(shape.total)),
        CACHE_READ: read,
        CACHE_WRITE: write,
        REASONING: reasoning,
    }
    return {meaning: count for meaning, count in counts.items() if count is not None}


def _with_details(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The object's own counts and those of its details as one; no name means two things in them."""
    said: dict[str, Any] = {}
    for name in _DETAILS:
        details = usage.get(name)
        if isinstance(details, dict):
            said |= {name: count for name, count in details.items() if count is not None}
    return said | {name: count for name, count in usage.items() if count is not None}


def _first(said: Mapping[str, Any], names: Iterable[str]) -> int | None:
    return next((count for name in names if (count := _count(said.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
