"""Vercel's AI SDK, versions 3 to 7: `ai.generateText` wraps `ai.generateText.doGenerate`, which is the call.

Version 7 writes OpenTelemetry's names, and `invoke_agent` for what wraps. Before version 6 the input of Anthropic's models
came without cached tokens; since then `ai.usage.inputTokenDetails` says what met no cache.
"""

from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.dialects.objects import json_object
from collectors.dialects.table import (
    CACHE_READ,
    CACHE_WRITE,
    FRESH,
    INPUT,
    KIND,
    PROVIDER_METADATA,
)

_FUNCTIONS = {
    "generateText": ("doGenerate", "chat"),
    "streamText": ("doStream", "chat"),
    "generateObject": ("doGenerate", "chat"),
    "streamObject": ("doStream", "chat"),
    "embed": ("doEmbed", "embeddings"),
    "embedMany": ("doEmbed", "embeddings"),
    "rerank": ("doRerank", "rerank"),
}
OPERATIONS = {f"ai.{name}.{inner}": operation for name, (inner, operation) in _FUNCTIONS.items()}
WRAPPER_KINDS = frozenset({"ai.toolCall", *(f"ai.{name}" for name in _FUNCTIONS)})
# `openai.chat`, `openai.responses`: the provider, and which of its APIs.
_PROVIDERS = {
    "google": "gcp.gemini",
    "google.vertex": "gcp.vertex_ai",
    "vertex": "gcp.vertex_ai",
    "azure": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "amazon-bedrock": "aws.bedrock",
    "xai": "x_ai",
    "mistral": "mistral_ai",
}
_EXCLUDED_CACHE = frozenset({"anthropic", "aws.bedrock"})
_IN_METADATA = {
    CACHE_READ: ("cacheReadInputTokens", "cache_read_input_tokens"),
    CACHE_WRITE: (
        "cacheCreationInputTokens",
        "cacheWriteInputTokens",
        "cache_creation_input_tokens",
    ),
}


def complete(found: dict[str, Any], _: Span) -> None:
    """Bring providers, operations and older versions' counts to OpenTelemetry's."""
    kind = found.get(KIND, "")
    if kind in OPERATIONS:
        found.setdefault("operation", OPERATIONS[kind])
    if kind.endswith(".doStream") or found.get("time_to_first_token_ns") is not None:
        found.setdefault("streaming", True)
    if "provider" in found:
        found["provider"] = provider_of(found["provider"])
    _count_cached_in(found)


def provider_of(name: str) -> str:
    vendor, dot, _ = name.partition(".")
    if name.startswith("google.vertex"):
        vendor = "google.vertex"
    return _PROVIDERS.get(vendor, vendor if dot else name)


def _count_cached_in(found: dict[str, Any]) -> None:
    """Make the input include what was read from and written to a cache."""
    if FRESH in found:
        fresh = found[FRESH]
    elif INPUT in found and _before_version_6(found):
        fresh = found[INPUT]
        _read_metadata(found)
    else:
        return
    found[INPUT] = fresh + found.get(CACHE_READ, 0) + found.get(CACHE_WRITE, 0)


def _before_version_6(found: dict[str, Any]) -> bool:
    """Of a provider whose input came without cached tokens; version 6 says FRESH, version 7 has no KIND of its own."""
    return found.get("provider") in _EXCLUDED_CACHE and found.get(KIND, "").startswith("ai.")


def _read_metadata(found: dict[str, Any]) -> None:
    """Versions before 6 say only here what was written to a cache, and the oldest also what was read from it."""
    metadata = json_object(found.get(PROVIDER_METADATA))
    for vendor in ("anthropic", "bedrock"):
        said = metadata.get(vendor)
        usage = said.get("usage") if isinstance(said, dict) else None
        for part in (said, usage):
            for meaning, names in _IN_METADATA.items():
                count = _first_count(part, names)
                if count is not None:
                    found.setdefault(meaning, count)


def _first_count(part: Any, names: tuple[str, ...]) -> int | None:
    counts = [part.get(name) for name in names] if isinstance(part, dict) else []
    return next((c for c in counts if isinstance(c, int) and not isinstance(c, bool)), None)
