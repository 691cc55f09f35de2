"""TGI's own spans: one for each request, with its phases as Rust writes durations, and neither an id nor a model nor counts.

    queue_time       from the end of validation until the request was in a batch
    inference_time   from then to the last token
    time_per_token   inference_time / tokens that came out, in whole nanoseconds: so these can be had back

What was read is said nowhere, so such spans are read only where the runtime's device is named (costwatch.device_type): then
its time is what a call is paid by. Else TGI's metrics, which have all tokens, count its hours.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.dialects.table import OUTPUT, TGI_INFERENCE_NS, TGI_PER_TOKEN_NS, TGI_QUEUE_NS

_PHASES = (TGI_INFERENCE_NS, TGI_QUEUE_NS, TGI_PER_TOKEN_NS)


def is_request(found: Mapping[str, Any]) -> bool:
    """Whether it is a span of a request that was answered."""
    return all(phase in found for phase in _PHASES)


def is_paid_by_time(found: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
    """Whether somebody says what it ran on."""
    return "device_type" in found or "device_type" in resource


def complete(found: dict[str, Any], span: Span) -> None:
    """Phases by their usual names, and the tokens that came out."""
    inference_ns, per_token_ns = found[TGI_INFERENCE_NS], found[TGI_PER_TOKEN_NS]
    found.setdefault("provider", "tgi")
    found.setdefault("operation", "chat" if span.name.startswith("chat") else "text_completion")
    found["queue_ns"] = found[TGI_QUEUE_NS]
    found["decode_ns"] = inference_ns
    if per_token_ns:
        found["time_per_output_token_ns"] = per_token_ns
        found[OUTPUT] = round(inference_ns / per_token_ns)
