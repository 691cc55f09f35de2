"""Spans → OTLP's protobuf, for the spans that inference calls are: quickly, because it is done for each of them.

OpenTelemetry's own encoder builds two messages for every attribute, which costs more than the rest of collecting a call.
Most attributes (team, model, provider, server) repeat from span to span, so their bytes are kept. Resource and scope,
and spans with events, links or unusual values, are left to OpenTelemetry's; the parts of a request may simply stand one
after the other, as protobuf's repeated fields do.

Field numbers: opentelemetry/proto/trace/v1/trace.proto and common/v1/common.proto.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

Late = Callable[[], Mapping[str, object]]

_PLAIN = frozenset({str, bool, int, float})
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # SpanFlags
_MOST_PLACES = 256
_LONGEST_KEPT = 128  # characters of a value; longer ones hardly repeat, and may be whole prompts
_places: "dict[tuple[int, int], Place]" = {}
_STATUS = {StatusCode.UNSET: 0, StatusCode.OK: 1, StatusCode.ERROR: 2}


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where in a request spans of one resource and one scope stand. Keeps both, for it is found by their identity."""

    said_by: tuple[object, object]
    resource: bytes
    scope: bytes


class Piece(NamedTuple):
    """One span in its place: its fields, and attributes of it that are only made when it is sent."""

    place: Place
    span: bytes
    late: Late | None = None


def encode(spans: Iterable[ReadableSpan]) -> bytes:
    """An ExportTraceServiceRequest that says of these spans what OpenTelemetry's own encoder says."""
    return join([encode_span(span) for span in spans])


def encode_span(span: ReadableSpan, late: Late | None = None) -> Piece:
    """One span; what is made of it is bytes, so the span itself need not be kept until it is sent."""
    place = place_of(span.resource, span.instrumentation_scope)
    attributes = _simple_attributes(span)
    if attributes is not None:
        return Piece(place, _span(span, attributes), late)
    [of_resource] = encode_spans([span]).resource_spans
    return Piece(place, of_resource.scope_spans[0].spans[0].SerializeToString(), late)


def join(pieces: Iterable[Piece]) -> bytes:
    """An ExportTraceServiceRequest of these spans; those of one place stand together, in their order."""
    groups: dict[Place, list[bytes]] = {}
    for place, span, late in pieces:
        whole = span if late is None else span + encode_attributes(late())
        groups.setdefault(place, []).append(_field(2, whole))
    return b"".join(
        _field(1, place.resource + _field(2, place.scope + b"".join(spans)))
        for place, spans in groups.items()
    )


def place_of(resource: Resource, scope: InstrumentationScope | None) -> Place:
    """Where spans of this resource and scope stand."""
    key = id(resource), id(scope)
    place = _places.get(key)
    if place is None:
        if len(_places) >= _MOST_PLACES:
            _places.clear()
        place = _places[key] = _new_place(resource, scope)
    return place


def _new_place(resource: Resource, scope: InstrumentationScope | None) -> Place:
    """OpenTelemetry's encoding of a span, without the span."""
    span = ReadableSpan(
        "", SpanContext(1, 1, False), resource=resource, instrumentation_scope=scope
    )
    [of_resource] = encode_spans([span]).resource_spans
    [of_scope] = of_resource.scope_spans
    within = ScopeSpans(scope=of_scope.scope, schema_url=of_scope.schema_url)
    whole = ResourceSpans(resource=of_resource.resource, schema_url=of_resource.schema_url)
    return Place((resource, scope), whole.SerializeToString(), within.SerializeToString())


def _simple_attributes(span: ReadableSpan) -> bytes | None:
    """The attributes' fields; None where the span has something that we do not encode ourselves."""
    if span.events or span.links or span.context is None or span.context.trace_state:
        return None
    if span.dropped_attributes or span.dropped_events or span.dropped_links:
        return None
    attributes: Any = span.attributes
    said: dict[str, Any] = attributes.copy() if attributes else {}  # dict() would lock for each
    if not all(type(value) in _PLAIN or _is_texts(value) for value in said.values()):
        return None
    return encode_attributes(said)


def _is_texts(value: object) -> bool:
    return type(value) is tuple and all(type(each) is str for each in value)


def _span(span: ReadableSpan, attributes: bytes) -> bytes:
    assert span.context is not None  # _simple_attributes
    return encode_fields(
        span.context,
        span.parent,
        (span.start_time or 0, span.end_time or 0),
        _named(span.name, span.kind) + attributes + _field(15, _status(span)),
    )


def encode_fields(
    context: SpanContext, parent: SpanContext | None, times_unix_ns: tuple[int, int], rest: bytes
) -> bytes:
    """A Span's fields: which one it is, from when to when, and `rest`, which are fields already."""
    flags, below = _HAS_IS_REMOTE, b""
    if parent is not None:
        below = b"\x22\x08" + parent.span_id.to_bytes(8, "big")
        flags |= _IS_REMOTE if parent.is_remote else 0
    began_unix_ns, ended_unix_ns = times_unix_ns
    return b"".join(
        (
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            below,
            rest,
            struct.pack("<BQBQHI", 0x39, began_unix_ns, 0x41, ended_unix_ns, 0x0185, flags),
        )
    )


def encode_name(name: str, kind: SpanKind) -> bytes:
    """The fields that say what a span is called and of what kind it is."""
    return _field(5, _utf8(name)) + b"\x30" + _varint(kind.value + 1)


_named = lru_cache(maxsize=512)(encode_name)


def _status(span: ReadableSpan) -> bytes:
    described = span.status.description
    message = _field(2, _utf8(described)) if described else b""
    code = _STATUS[span.status.status_code]
    return message + (b"\x18" + _varint(code) if code else b"")


# The field of a status without a description.
UNSET, FAILED = b"\x7a\x00", b"\x7a\x02\x18\x02"


def encode_attributes(said: Mapping[str, Any]) -> bytes:
    """Attributes as fields of a span; texts, truths, numbers, and tuples of texts."""
    return b"".join(
        [
            _kept_attribute(name, value) if _is_short(value) else _attribute(name, value)
            for name, value in said.items()
        ]
    )


def _is_short(value: object) -> bool:
    if type(value) is str:
        return len(value) <= _LONGEST_KEPT
    return type(value) is not tuple or sum(map(len, value)) <= _LONGEST_KEPT


def encode_text(name: str, text: str) -> bytes:
    """An attribute whose value is another one in every span, so that there is nothing to keep."""
    value = _utf8(text)
    length = len(value)
    if length > 123:  # each length below takes one byte
        return _attribute(name, text)
    head = _name_of(name)
    inner = len(head) + length + 4
    if inner > 127:
        return _attribute(name, text)
    return b"".join(
        (b"\x4a", _SMALL[inner], head, b"\x12", _SMALL[length + 2], b"\x0a", _SMALL[length], value)
    )


@lru_cache(maxsize=512)
def _name_of(name: str) -> bytes:
    return _field(1, _utf8(name))


def _attribute(name: str, value: object) -> bytes:
    """A KeyValue, as the attribute of a span."""
    return _field(9, _name_of(name) + _field(2, _any_value(value)))


_kept_attribute = lru_cache(maxsize=2048, typed=True)(_attribute)


def _any_value(value: object) -> bytes:
    if isinstance(value, str):
        return _field(1, _utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    assert isinstance(value, tuple)  # _simple_attributes
    return _field(5, b"".join(_field(1, _any_value(each)) for each in value))


def _utf8(text: str) -> bytes:
    """Half a surrogate pair, which JSON can say, would make the whole request unreadable."""
    return text.encode("utf-8", "replace")


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
