"""Langfuse's SDKs: `langfuse.observation.*`, with usage as JSON in the provider's shape or in Langfuse's own.

In its own, parts lie beside each other: `input` and every `input_…` sum to the input, `output` and every `output_…` to the
output. Who writes it by hand may mean otherwise; a total tells.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.dialects.objects import any_object
from collectors.dialects.provider_usage import counts_of
from collectors.dialects.table import (
    CACHE_READ,
    CACHE_WRITE,
    FIRST_TOKEN_UNIX_NS,
    INPUT,
    KIND,
    LEVEL,
    OUTPUT,
    REASONING,
    TOTAL,
    USAGE,
)

OPERATIONS = {"generation": "chat", "embedding": "embeddings"}
WRAPPER_KINDS = frozenset(
    {"span", "event", "agent", "tool", "chain", "retriever", "evaluator", "guardrail"}
)
_CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_read", "cache_write")
_CACHE_WRITE = ("cache_creation", "cache_write", "ephemeral")


def complete(found: dict[str, Any], span: Span) -> None:
    """Fill in what Langfuse keeps in JSON."""
    found.setdefault("operation", OPERATIONS.get(found.get(KIND, ""), ""))
    usage = any_object(found.get(USAGE))
    found.update(_own_counts(usage) if "input" in usage or "output" in usage else counts_of(usage))
    first_token_ns = found.get(FIRST_TOKEN_UNIX_NS)
    if first_token_ns is not None:
        found["streaming"] = True
        waited_ns = max(0, first_token_ns - span.start_time_unix_nano)
        found.setdefault("time_to_first_token_ns", waited_ns)
    if found.get(LEVEL) == "ERROR":
        found.setdefault("error_type", "error")


def _own_counts(usage: Mapping[str, Any]) -> dict[str, int]:
    counts = {
        name: count
        for name, count in usage.items()
        if isinstance(count, int) and not isinstance(count, bool)
    }
    inputs = _parts(counts, "input_", _CACHED)
    outputs = _parts(counts, "output_", ())
    found = {
        INPUT: counts.get("input"),
        OUTPUT: counts.get("output"),
        TOTAL: counts.get("total"),
        CACHE_READ: _sum_of(inputs, ("cache_read", "cached")),
        CACHE_WRITE: _sum_of(inputs, _CACHE_WRITE),
        REASONING: _sum_of(outputs, ("reasoning",)),
    }
    if counts.get("total") != counts.get("input", 0) + counts.get("output", 0):
        for meaning, parts in ((INPUT, inputs), (OUTPUT, outputs)):
            if found[meaning] is not None or parts:
                found[meaning] = (found[meaning] or 0) + sum(parts.values())
    return {meaning: count for meaning, count in found.items() if count is not None}


def _parts(counts: Mapping[str, int], prefix: str, others: tuple[str, ...]) -> dict[str, int]:
    return {n: count for n, count in counts.items() if n.startswith(prefix) or n in others}


def _sum_of(parts: Mapping[str, int], words: tuple[str, ...]) -> int | None:
    fitting = [count for name, count in parts.items() if any(word in name for word in words)]
    return sum(fitting) if fitting else None
