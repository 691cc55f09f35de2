"""OpenTelemetry's GenAI conventions, all versions: `gen_ai.operation.name` says what a span is.

Vendors' own names for operations are open; only what wraps calls is a closed list, because a new kind of call must not
go uncounted, and a wrapper that is taken for a call counts twice only where it repeats usage.
"""

from collections.abc import Mapping
from typing import Any

from collectors.dialects import litellm
from collectors.dialects.table import (
    API_BASE,
    INPUT,
    OUTPUT,
    RAW_USAGE,
    REASONING,
    THOUGHTS,
    TOTAL,
)
from collectors.dialects.urls import host_of

CALL_OPERATIONS = frozenset(
    {
        "chat",
        "text_completion",
        "generate_content",
        "embeddings",
        "completion",
        "embedding",
        "rerank",
    }
)
WRAPPER_OPERATIONS = frozenset(
    {
        "invoke_agent",
        "create_agent",
        "execute_tool",
        "invoke_workflow",
        "retrieval",
        "agent",
        "agent_step",
        "workflow",
        "chain",
        "tool",
        "task",
        "plan",
    }
)
_STANDARD_OPERATIONS = {
    "completion": "text_completion",
    "embedding": "embeddings",
    "chat.completions": "chat",
    "text.completions": "text_completion",
}
# What Azure's instrumentations called them before the conventions had names.
_STANDARD_PROVIDERS = {
    "az.ai.inference": "azure.ai.inference",
    "az.ai.openai": "azure.ai.openai",
}


def is_call(found: Mapping[str, Any]) -> bool:
    """Whether a span without a kind of its own is an inference call."""
    operation = found.get("operation")
    if operation in CALL_OPERATIONS:
        return True
    if operation in WRAPPER_OPERATIONS:
        return False
    return any(meaning in found for meaning in (INPUT, OUTPUT, "response_id", RAW_USAGE))


def complete(found: dict[str, Any]) -> None:
    """Bring older names of the same thing to today's."""
    operation = found.get("operation")
    if operation in _STANDARD_OPERATIONS:
        found["operation"] = _STANDARD_OPERATIONS[operation]
    provider = found.get("provider")
    if provider is not None:
        provider = provider.lower()
        found["provider"] = _STANDARD_PROVIDERS.get(provider, provider)
    if API_BASE in found and "server_address" not in found:
        found["server_address"] = host_of(found[API_BASE])
    if THOUGHTS in found:
        _count_thoughts(found)
    # A gateway hands its packed ids to clients, who send them under any dialect.
    if found.get("response_id", "").startswith(litellm.PACKED_ID):
        found["response_id"] = litellm.unpacked(found["response_id"])


def _count_thoughts(found: dict[str, Any]) -> None:
    """Google's candidates do not include its thoughts; a total tells where an instrumentation has added them up."""
    thoughts = found[THOUGHTS]
    found.setdefault(REASONING, thoughts)
    total = found.get(TOTAL)
    if total is None or total != found.get(INPUT, 0) + found.get(OUTPUT, 0):
        found[OUTPUT] = found.get(OUTPUT, 0) + thoughts
