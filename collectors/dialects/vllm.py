"""vLLM's own spans: the engine's request, in the names of GenAI, without a model."""

import re
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

# A completion may have several prompts, and the engine numbers them; the answer's id is the one without.
_FIRST_PROMPT = re.compile(r"(cmpl-.+)-0")


def complete(found: dict[str, Any], _: Span) -> None:
    """Bring the engine's id to the one that the client was given."""
    first = _FIRST_PROMPT.fullmatch(found.get("response_id", ""))
    if first is not None:
        found["response_id"] = first[1]
