"""Bodies of telemetry, built by hand."""

from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from collectors.observation import Decoded, Observation
from collectors.otlp import decode_traces

PROTOBUF = "application/x-protobuf"
TRACE_ID = bytes(range(16))
NOON_NS = 1_795_392_000_000_000_000


def any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
    return AnyValue(string_value=value)


def key_values(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=name, value=any_value(value)) for name, value in attributes.items()]


def span_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def span(
    attributes: Mapping[str, Any] | None = None, *, number: int = 1, parent: int = 0, **fields: Any
) -> Span:
    said: dict[str, Any] = {
        "trace_id": TRACE_ID,
        "span_id": span_id(number),
        "parent_span_id": span_id(parent) if parent else b"",
        "start_time_unix_nano": NOON_NS,
        "end_time_unix_nano": NOON_NS + 10**9,
        "attributes": key_values(attributes or {}),
    }
    return Span(**(said | fields))


def request(
    *spans: Span, scope: str = "", resource: Mapping[str, Any] | None = None
) -> ExportTraceServiceRequest:
    scope_spans = ScopeSpans(spans=spans)
    scope_spans.scope.name = scope
    resource_spans = ResourceSpans(scope_spans=[scope_spans])
    resource_spans.resource.attributes.extend(key_values(resource or {}))
    return ExportTraceServiceRequest(resource_spans=[resource_spans])


def decoded(*spans: Span, scope: str = "", resource: Mapping[str, Any] | None = None) -> Decoded:
    body = request(*spans, scope=scope, resource=resource).SerializeToString()
    return decode_traces(body, content_type=PROTOBUF)


def observed(attributes: Mapping[str, Any], *, scope: str = "", **fields: Any) -> Observation:
    """The one observation of one span."""
    [observation] = decoded(span(attributes, **fields), scope=scope).observations
    return observation
