"""Logfire's instrumentations of clients: `gen_ai.usage.raw` holds the provider's own usage object.

A stream is two spans, neither with a response id. The first ends when the stream begins, after a few milliseconds,
and knows no usage. The second, of no length, is a log of the stream's end: usage, and how long it took. The second is the
call; the first opens it, and would count it twice.
"""

from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors.dialects.objects import any_object, json_object
from collectors.dialects.provider_usage import counts_of
from collectors.dialects.table import ANSWER, DURATION_NS, INPUT, OUTPUT, SPAN_TYPE, USAGE

_MEANINGS_OF_AN_ANSWER = (INPUT, OUTPUT, "response_id", "error_type")


def complete(found: dict[str, Any], span: Span) -> None:
    """Fill in the provider's usage, and tell which of a stream's two spans this is."""
    # Before gen_ai.usage.raw, the provider's usage stood in the answer.
    usage = any_object(found.get(USAGE)) or json_object(found.get(ANSWER)).get("usage")
    if isinstance(usage, dict):
        found.update(counts_of(usage))
    span_type = found.get(SPAN_TYPE)
    if span_type == "log":
        found["streaming"] = True
        started_ns = span.end_time_unix_nano - found.get(DURATION_NS, 0)
        found["start_unix_ns"] = min(span.start_time_unix_nano, max(1, started_ns))
    elif span_type == "pending_span" or _opens_a_stream(found, span):
        found["is_wrapper"] = True


def _opens_a_stream(found: dict[str, Any], span: Span) -> bool:
    """A chat that went well, and came back without id and usage."""
    return (
        found.get("operation") == "chat"
        and SPAN_TYPE in found
        and span.status.code != Status.STATUS_CODE_ERROR
        and not any(meaning in found for meaning in _MEANINGS_OF_AN_ANSWER)
    )
