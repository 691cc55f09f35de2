"""Our encoding of spans says what OpenTelemetry's own says."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from collectors.encode import encode

PLAIN = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(st.text(), max_size=3).map(tuple),
)
UNUSUAL = st.one_of(st.lists(st.integers(0, 9), min_size=1, max_size=2).map(tuple), st.binary())
CONTEXTS = st.builds(
    SpanContext,
    st.integers(min_value=1, max_value=2**128 - 1),
    st.integers(min_value=1, max_value=2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(1)),
    st.sampled_from([TraceState(), TraceState([("a", "b")])]),
)
RESOURCES = [Resource({"service.name": "a"}), Resource({"service.name": "b"}, "https://schema")]
SCOPES = [InstrumentationScope("x", "1"), InstrumentationScope("y", "2", "https://schema")]


@st.composite
def spans(draw: st.DrawFn) -> ReadableSpan:
    attributes: dict[str, Any] = draw(st.dictionaries(st.text(min_size=1), PLAIN, max_size=6))
    if draw(st.integers(0, 4)) == 0:
        attributes["unusual"] = draw(UNUSUAL)
    code = draw(st.sampled_from(StatusCode))
    return ReadableSpan(
        draw(st.text()),
        draw(CONTEXTS),
        draw(st.one_of(st.none(), CONTEXTS)),
        draw(st.sampled_from(RESOURCES)),
        attributes,
        draw(st.sampled_from([[], [], [Event("happened", {"a": 1}, 5)]])),
        kind=draw(st.sampled_from(SpanKind)),
        status=Status(code, draw(st.text()) if code is StatusCode.ERROR else None),
        start_time=draw(st.integers(0, 2**63 - 1)),
        end_time=draw(st.integers(0, 2**63 - 1)),
        instrumentation_scope=draw(st.sampled_from(SCOPES)),
    )


def by_place(request: ExportTraceServiceRequest) -> list[tuple[bytes, bytes]]:
    """Every span with what stands around it; which of them share a message says nothing."""
    return sorted(
        (of_resource.resource.SerializeToString() + of_scope.scope.SerializeToString()
         + of_resource.schema_url.encode() + of_scope.schema_url.encode(),
         span.SerializeToString(deterministic=True))
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    )  # fmt: skip


@given(st.lists(spans(), max_size=6))
def test_it_says_what_opentelemetrys_encoder_says(found: list[ReadableSpan]) -> None:
    ours = ExportTraceServiceRequest.FromString(encode(found))
    assert by_place(ours) == by_place(encode_spans(found))


def test_true_and_one_are_different_attributes() -> None:
    context = SpanContext(1, 1, False)
    attributes: list[dict[str, Any]] = [{"a": True}, {"a": 1}, {"a": 1.0}]
    found = [
        ReadableSpan("s", context, attributes=each, instrumentation_scope=SCOPES[0], start_time=1, end_time=2)
        for each in attributes
    ]  # fmt: skip
    assert by_place(ExportTraceServiceRequest.FromString(encode(found))) == by_place(
        encode_spans(found)
    )
