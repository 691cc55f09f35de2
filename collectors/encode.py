"""Spans → OTLP's protobuf, for the spans that inference calls are: quickly, because it is done for each of them.

OpenTelemetry's own encoder builds two messages for every attribute, which costs more than the rest of collecting a call.
Most attributes (team, model, provider, server) repeat from span to span, so their bytes are kept. Resource and scope,
and spans with events, links or unusual values, are left to OpenTelemetry's; the parts of a request may simply stand one
after the other, as protobuf's repeated fields do.

Field numbers: opentelemetry/proto/trace/v1/trace.proto and common/v1/common.proto.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

_PLAIN = frozenset({str, bool, int, float})
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # SpanFlags
_MOST_PLACES = 256
_places: "dict[tuple[int, int], Place]" = {}
_STATUS = {StatusCode.UNSET: 0, StatusCode.OK: 1, StatusCode.ERROR: 2}


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where in a request spans of one resource and one scope stand. Keeps both, for it is found by their identity."""

    said_by: tuple[object, object]
    resource: bytes
    scope: bytes


class Piece(NamedTuple):
    """One span, encoded: in its place, or, without one, a request of its own."""

    place: Place | None
    span: bytes


def encode(spans: Iterable[ReadableSpan]) -> bytes:
    """An ExportTraceServiceRequest that says of these spans what OpenTelemetry's own encoder says."""
    return join([encode_span(span) for span in spans])


def encode_span(span: ReadableSpan) -> Piece:
    """One span; what is made of it is bytes, so the span itself need not be kept until it is sent."""
    if not _is_simple(span):
        return Piece(None, encode_spans([span]).SerializeToString())
    return Piece(_place_of(span), _field(2, _span(span)))


def join(pieces: Iterable[Piece]) -> bytes:
    """An ExportTraceServiceRequest of these spans; those of one place stand together, in their order."""
    groups: dict[Place, list[bytes]] = {}
    whole = []
    for place, span in pieces:
        if place is None:
            whole.append(span)
        else:
            groups.setdefault(place, []).append(span)
    for place, spans in groups.items():
        of_scope = _field(2, place.scope + b"".join(spans))
        whole.append(_field(1, place.resource + of_scope))
    return b"".join(whole)


def _place_of(span: ReadableSpan) -> Place:
    key = id(span.resource), id(span.instrumentation_scope)
    place = _places.get(key)
    if place is None:
        if len(_places) >= _MOST_PLACES:
            _places.clear()
        place = _places[key] = _new_place(span)
    return place


def _new_place(span: ReadableSpan) -> Place:
    """OpenTelemetry's encoding of a span, without the span."""
    [of_resource] = encode_spans([span]).resource_spans
    [of_scope] = of_resource.scope_spans
    scope = ScopeSpans(scope=of_scope.scope, schema_url=of_scope.schema_url)
    resource = ResourceSpans(resource=of_resource.resource, schema_url=of_resource.schema_url)
    return Place(
        (span.resource, span.instrumentation_scope),
        resource.SerializeToString(),
        scope.SerializeToString(),
    )


def _is_simple(span: ReadableSpan) -> bool:
    if span.events or span.links or span.context is None or span.context.trace_state:
        return False
    if span.dropped_attributes or span.dropped_events or span.dropped_links:
        return False
    return all(_is_plain(value) for value in (span.attributes or {}).values())


def _is_plain(value: object) -> bool:
    if type(value) is tuple:
        return all(type(each) is str for each in value)
    return type(value) in _PLAIN


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.context, span.parent
    assert context is not None  # _is_simple
    flags = _HAS_IS_REMOTE | (_IS_REMOTE if parent is not None and parent.is_remote else 0)
    parts = [
        b"\x0a\x10",
        context.trace_id.to_bytes(16, "big"),
        b"\x12\x08",
        context.span_id.to_bytes(8, "big"),
        b"" if parent is None else b"\x22\x08" + parent.span_id.to_bytes(8, "big"),
        _field(5, span.name.encode()),
        b"\x30" + _varint(span.kind.value + 1),
        struct.pack("<BQBQ", 0x39, span.start_time or 0, 0x41, span.end_time or 0),
        *[_attribute(name, value) for name, value in (span.attributes or {}).items()],
        _field(15, _status(span)),
        struct.pack("<HI", 0x0185, flags),
    ]
    return b"".join(parts)


def _status(span: ReadableSpan) -> bytes:
    described = span.status.description
    message = _field(2, described.encode()) if described else b""
    code = _STATUS[span.status.status_code]
    return message + (b"\x18" + _varint(code) if code else b"")


@lru_cache(maxsize=2048, typed=True)
def _attribute(name: str, value: object) -> bytes:
    """A KeyValue, as the attribute of a span."""
    return _field(9, _field(1, name.encode()) + _field(2, _any_value(value)))


def _any_value(value: object) -> bytes:
    if isinstance(value, str):
        return _field(1, value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    assert isinstance(value, tuple)  # _is_plain
    return _field(5, b"".join(_field(1, _any_value(each)) for each in value))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Base 128, lowest first; below zero as 64 bits in two's complement."""
    if 0 <= number < 128:
        return _SMALL[number]
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


_SMALL = [bytes((number,)) for number in range(128)]
