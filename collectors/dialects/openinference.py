"""OpenInference (Arize): `openinference.span.kind` says what a span is; much else stands inside JSON.

The provider's response id is only in `output.value`, the provider's answer as JSON; LangChain's spans have there a
dump of LangChain's own object, with the provider's id inside, unless the answer was streamed. The request's model
is in `llm.invocation_parameters`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.dialects.objects import json_object
from collectors.dialects.table import ANSWER, ANSWER_TYPE, INVOCATION, KIND
from collectors.dialects.values import clean

OPERATIONS = {"LLM": "chat", "EMBEDDING": "embeddings", "RERANKER": "rerank"}
WRAPPER_KINDS = frozenset(
    {"CHAIN", "AGENT", "TOOL", "RETRIEVER", "GUARDRAIL", "EVALUATOR", "PROMPT", "UNKNOWN"}
)
_FIRST_TOKEN_EVENT = "First Token Stream Event"
# Providers and SDKs write the id first; so it is found without parsing the answer, and in one that was cut off.
_LEADING_ID = re.compile(r'\{\s*"id"\s*:\s*"([^"\\\s]{1,256})"')
_AN_ID = re.compile(r"\S{1,256}")


def complete(found: dict[str, Any], span: Span) -> None:
    """Fill in what OpenInference keeps in JSON, in events and in the kind."""
    found.setdefault("operation", OPERATIONS.get(found.get(KIND, ""), ""))
    _read_invocation(found)
    # A model that was asked for JSON may answer {"id": …} itself; that is text, and no id.
    if found.get(ANSWER_TYPE) != "text/plain" and "response_id" not in found:
        found["response_id"] = response_id_of(found.get(ANSWER, "")) or ""
    first_token_ns = _first_token_ns(span.events)
    if first_token_ns is not None:
        found["streaming"] = True
        found.setdefault(
            "time_to_first_token_ns", max(0, first_token_ns - span.start_time_unix_nano)
        )


def _read_invocation(found: dict[str, Any]) -> None:
    parameters = json_object(found.get(INVOCATION))
    model, stream = (
        parameters.get("model") or parameters.get("model_name"),
        parameters.get("stream"),
    )
    if isinstance(model, str) and "request_model" not in found:
        found["request_model"] = clean(model) or ""
    if isinstance(stream, bool):
        found.setdefault("streaming", stream)


def response_id_of(answer: str) -> str | None:
    """The provider's response id in an answer; None where there is none."""
    leading = _LEADING_ID.match(answer)
    if leading:
        return clean(leading[1])
    whole = json_object(answer)
    for candidate in (whole.get("id"), _langchain_id(whole)):
        if isinstance(candidate, str) and _AN_ID.fullmatch(candidate):
            return clean(candidate)
    return None


def _langchain_id(whole: Mapping[str, Any]) -> Any:
    """LangChain's own ids (`lc_run--…`) are not the provider's; that one stands in what the provider said."""
    said = whole.get("llm_output")
    if isinstance(said, dict) and "id" in said:
        return said["id"]
    try:
        return whole["generations"][0][0]["message"]["kwargs"]["response_metadata"]["id"]
    except (KeyError, IndexError, TypeError):
        return None


def _first_token_ns(events: Iterable[Span.Event]) -> int | None:
    return next((e.time_unix_nano for e in events if e.name == _FIRST_TOKEN_EVENT), None)
