"""OpenTelemetry's GenAI conventions, all versions: `gen_ai.operation.name` says what a span is.

Vendors' own names for operations are open; only what wraps calls is a closed list, because a new kind of call must not
go uncounted, and a wrapper that is taken for a call counts twice only where it repeats usage.
"""

from collections.abc import Mapping
from typing import Any

from collectors.dialects.table import API_BASE, INPUT, OUTPUT

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
        "workflow",
        "chain",
        "tool",
        "task",
        "plan",
    }
)
_STANDARD_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}


def is_call(found: Mapping[str, Any]) -> bool:
    """Whether a span without a kind of its own is an inference call."""
    operation = found.get("operation")
    if operation in CALL_OPERATIONS:
        return True
    if operation in WRAPPER_OPERATIONS:
        return False
    return INPUT in found or OUTPUT in found or "response_id" in found


def complete(found: dict[str, Any]) -> None:
    """Bring older names of the same thing to today's."""
    operation = found.get("operation")
    if operation in _STANDARD_OPERATIONS:
        found["operation"] = _STANDARD_OPERATIONS[operation]
    base = found.get(API_BASE)
    if base is not None and "server_address" not in found:
        found["server_address"] = host_of(base)


def host_of(url: str) -> str:
    """The host of a URL; nothing else of it, for a path may hold an account."""
    rest = url.partition("://")[2] or url
    authority = rest.partition("/")[0].rpartition("@")[2]
    if authority.startswith("["):  # IPv6
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
