"""OTLP in bytes → observations.

    TelemetryError
    ├── MalformedTelemetry    not what its content type says; sending it again will not help (HTTP 400)
    ├── BodyTooLarge          inflates to more than the receiver takes (413)
    └── UnsupportedMedia      a content type or an encoding that we do not read (415)

A body is decoded whole or not at all; a span in it that cannot be right by itself is refused alone, with the reason.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from backports import zstd
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors import wire
from collectors.dialects import prototypes
from collectors.dialects.attributes import read_resource, read_span
from collectors.dialects.recognise import is_about_a_call, observe, scope_of, speaker_of
from collectors.dialects.scopes import Scope
from collectors.dialects.sheets import Row, sorted_out
from collectors.dialects.tags import own_tags
from collectors.observation import Decoded, Observation, Refusal, SpanLink, link_of

MAX_UNIX_NS = 2**63 - 1  # the year 2262; what databases and our own sums can hold
MAX_ATTRIBUTES = 10_000  # of one span; those that carry a long conversation have some thousands
PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_ID_FIELDS = frozenset(
    {"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"}
)
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_MAX_MEMBERS = 64  # senders write one; each costs a copy of what follows it
_USAGE = b"gen_ai.usage."  # in every spelling of the conventions
_Request = TypeVar("_Request", bound=Message)


class TelemetryError(ValueError):
    """A body that cannot be taken; the message says why."""


class MalformedTelemetry(TelemetryError):
    """The bytes are not what their content type says."""


class BodyTooLarge(TelemetryError):
    """The body is, or inflates to, more than the limit."""


class UnsupportedMedia(TelemetryError):
    """A content type or content encoding that is not read here."""


class _HalfCharacter(Exception):
    """A text in JSON ends in the middle of a character, a lone surrogate."""


# Bytes


class _Inflater(Protocol):
    """What zlib's and zstd's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


# A member of gzip is a frame of zstd. Python's zstd keeps a frame's window to 128 MB, which is reserved, not filled.
_INFLATERS: dict[str, Callable[[], _Inflater]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "deflate": lambda: zlib.decompressobj(15),
    "zstd": zstd.ZstdDecompressor,
}
ENCODINGS = tuple(_INFLATERS)


def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """The body as it was before its Content-Encoding, at most limit_bytes long; never more than that is inflated.

    Raises BodyTooLarge, MalformedTelemetry where the bytes are not of that encoding, and UnsupportedMedia.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        _check_size(len(body), limit_bytes)
        return body
    if name not in _INFLATERS:
        raise UnsupportedMedia(
            f"Content-Encoding {encoding!r}: expected {', '.join(ENCODINGS)} or none"
        )
    try:
        return _inflate(body, limit_bytes, _INFLATERS[name])
    except (zlib.error, zstd.ZstdError) as error:
        raise MalformedTelemetry(f"the body is not {name}: {error}") from error


def _inflate(body: bytes, limit_bytes: int, inflater: Callable[[], _Inflater]) -> bytes:
    """Inflate every member; RFC 1952 and RFC 8878 allow several, one after the other."""
    whole = bytearray()
    for _ in range(_MAX_MEMBERS):
        member = inflater()
        whole += member.decompress(body, limit_bytes + 1 - len(whole))
        _check_size(len(whole), limit_bytes)
        if not member.eof:
            raise MalformedTelemetry("the compressed body ends too early; send it again whole")
        body = member.unused_data
        if not body:
            return bytes(whole)
    raise MalformedTelemetry(f"the compressed body has more than {_MAX_MEMBERS} members; send one")


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise BodyTooLarge(
            f"the body is larger than {limit_bytes} bytes uncompressed; send smaller batches"
        )


# Requests


def parse(kind: type[_Request], body: bytes, content_type: str) -> _Request:
    media_type = _media_type(content_type)
    if media_type == PROTOBUF:
        return _from_protobuf(kind, body)
    if media_type == JSON:
        return _from_json(kind, body)
    raise UnsupportedMedia(f"Content-Type {content_type!r}: expected {PROTOBUF} or {JSON}")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _from_protobuf(kind: type[_Request], body: bytes) -> _Request:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise MalformedTelemetry(f"the body is no protobuf {kind.__name__}: {error}") from error


def _from_json(kind: type[_Request], body: bytes) -> _Request:
    try:
        parsed = json.loads(body, object_hook=_with_base64_ids)
    except (ValueError, RecursionError) as error:
        raise MalformedTelemetry(f"the body is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise MalformedTelemetry(f"the body is a JSON {type(parsed).__name__}: expected an object")
    try:
        return _from_dict(kind, parsed)
    except _HalfCharacter:
        return _from_dict(kind, _without_lone_surrogates(parsed))


def _from_dict(kind: type[_Request], parsed: dict[str, Any]) -> _Request:
    """Raises MalformedTelemetry, and _HalfCharacter where that is what is wrong."""
    try:
        return json_format.ParseDict(parsed, kind(), ignore_unknown_fields=True)
    except (json_format.Error, ValueError, TypeError, AttributeError, RecursionError) as error:
        if "surrogate" in str(error):
            raise _HalfCharacter from error
        # protobuf's converter lets Python's own errors through where an object stands for a number
        raise MalformedTelemetry(f"the body is no OTLP/JSON {kind.__name__}: {error}") from error


def _without_lone_surrogates(parsed: dict[str, Any]) -> dict[str, Any]:
    """JavaScript cuts texts in the middle of a character; the calls of the body are not to be lost for it."""
    whole: dict[str, Any] = json.loads(
        json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace")
    )
    return whole


def _with_base64_ids(parsed: dict[str, Any]) -> dict[str, Any]:
    """OTLP/JSON writes ids in hex where protobuf's own JSON, which our parser reads, has base64."""
    for name in _ID_FIELDS & parsed.keys():
        if isinstance(parsed[name], str):
            parsed[name] = base64.b64encode(_from_hex(parsed[name])).decode()
    return parsed


def _from_hex(digits: str) -> bytes:
    """Bytes; none where it is not hex, so that the one span is refused for its id and not the body."""
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


# Traces


def decode_traces(body: bytes, *, content_type: str) -> Decoded:
    """What a body of /v1/traces says: an observation per span about a call, and a link per span.

    Raises MalformedTelemetry and UnsupportedMedia.
    """
    return _read_traces(body, content_type).one_by_one()


def decode_traces_in_columns(body: bytes, *, content_type: str) -> Decoded:
    """The same, with calls that look alike in sheets, and links of those spans only that are no observations.

    Raises MalformedTelemetry and UnsupportedMedia.
    """
    return _read_traces(body, content_type).in_columns()


def _read_traces(body: bytes, content_type: str) -> _Spans:
    if _media_type(content_type) == JSON:
        body = _from_json(ExportTraceServiceRequest, body).SerializeToString()
        content_type = PROTOBUF
    spans = _Spans()
    try:
        for resource_spans in parse(
            wire.ExportTraceServiceRequest, body, content_type
        ).resource_spans:
            for scope_spans in resource_spans.scope_spans:
                place = _Place(resource_spans.resource, scope_spans.scope)
                for span in scope_spans.spans:
                    spans.take(span, place)
    except DecodeError as error:
        raise MalformedTelemetry(f"the body is no OTLP traces request: {error}") from error
    return spans


class _Place:
    """Where spans stand in a body: what their resource and their scope say."""

    __slots__ = ("key", "resource", "resource_tags", "scope")

    def __init__(self, resource_bytes: bytes, scope_bytes: bytes) -> None:
        # Prototypes keep it, and resources may be long.
        size = len(scope_bytes).to_bytes(8)
        self.key = blake2b(size + scope_bytes + resource_bytes, digest_size=16).digest()
        found, tags = read_resource(Resource.FromString(resource_bytes).attributes)
        self.resource, self.resource_tags = found, own_tags(tags)
        self.scope = scope_of(InstrumentationScope.FromString(scope_bytes).name)


class _Spans:
    """The spans of one body."""

    def __init__(self) -> None:
        self._found: list[Row | Observation | SpanLink] = []
        self._refused: Counter[str] = Counter()

    def take(self, body: bytes, place: _Place) -> None:
        try:
            self._take(body, place)
        except DecodeError:
            # The other spans of the body are good ones.
            self._refused["span that is no protobuf"] += 1

    def _take(self, body: bytes, place: _Place) -> None:
        span = wire.Span.FromString(body)
        trace_id, span_id, parent_id = span.trace_id, span.span_id, span.parent_span_id
        start_ns, end_ns = span.start_time_unix_nano, span.end_time_unix_nano
        attributes = span.attributes
        wrong = _what_is_wrong(trace_id, span_id, parent_id, start_ns, end_ns)
        if not wrong and len(attributes) > MAX_ATTRIBUTES:
            wrong = f"span with more than {MAX_ATTRIBUTES} attributes"
        if wrong:
            self._refused[wrong] += 1
            return
        parent = None if not parent_id or parent_id == _NO_SPAN else parent_id
        parts = None if _failed(span.status) else prototypes.parts_of(attributes)
        if parts is None:
            self._read(body, SpanLink(trace_id, span_id, parent, start_ns), place)
            return
        key = (place.key, span.kind, parts.common, parts.names)
        prototype = prototypes.prototype_of(key)
        if prototype is None:
            link = SpanLink(trace_id, span_id, parent, start_ns)
            prototypes.remember(key, parts, *self._read(body, link, place))
            return
        row = Row(prototype, parts.values, trace_id, span_id, parent, start_ns, end_ns)
        self._found.append(row if prototype.is_call else row.link())

    def _read(
        self, body: bytes, bare: SpanLink, place: _Place
    ) -> tuple[SpanLink, Observation | None, Scope]:
        """Take a span attribute by attribute; returns what it was taken for, and who spoke."""
        span = _parsed(body)
        found, tags = read_span(span.attributes)
        link = replace(bare, tags=own_tags(tags))
        is_call = is_about_a_call(found, place.resource)
        if is_call is None:
            self._found.append(link)
            return link, None, place.scope
        speaker = speaker_of(span, found, place.scope)
        seen = observe(
            span,
            link,
            found,
            place.scope,
            is_wrapper=not is_call,
            resource=place.resource,
            resource_tags=place.resource_tags,
        )
        self._found.append(seen)
        return link, seen, speaker

    def in_columns(self) -> Decoded:
        sheets, single = sorted_out(one for one in self._found if isinstance(one, Row))
        single += [one for one in self._found if isinstance(one, Observation)]
        return Decoded(
            observations=single,
            links=[one for one in self._found if isinstance(one, SpanLink)],
            sheets=sheets,
            refusals=refusals(self._refused),
            items=self._items,
        )

    def one_by_one(self) -> Decoded:
        seen = [one.observation() if isinstance(one, Row) else one for one in self._found]
        return Decoded(
            observations=[one for one in seen if isinstance(one, Observation)],
            links=[one if isinstance(one, SpanLink) else link_of(one) for one in seen],
            refusals=refusals(self._refused),
            items=self._items,
        )

    @property
    def _items(self) -> int:
        return len(self._found) + self._refused.total()


def _failed(statuses: Sequence[bytes]) -> bool:
    """What protobuf says of a status in pieces: it is their concatenation."""
    if not statuses:
        return False
    return bool(wire.Status.FromString(b"".join(statuses)).code == Status.STATUS_CODE_ERROR)


def _parsed(body: bytes) -> Span:
    """The span, without what cannot be read in it: a prompt cut in the middle of a character loses no call."""
    try:
        return Span.FromString(body)
    except DecodeError:
        lean = wire.Span.FromString(body)
    span = Span(
        trace_id=lean.trace_id,
        span_id=lean.span_id,
        parent_span_id=lean.parent_span_id,
        kind=lean.kind,
        start_time_unix_nano=lean.start_time_unix_nano,
        end_time_unix_nano=lean.end_time_unix_nano,
    )
    if _failed(lean.status):
        span.status.code = Status.STATUS_CODE_ERROR
    for attribute in lean.attributes:
        with suppress(DecodeError):
            span.attributes.append(KeyValue.FromString(attribute))
    return span


def _what_is_wrong(
    trace_id: bytes, span_id: bytes, parent_id: bytes, start_ns: int, end_ns: int
) -> str | None:
    """Why a span cannot be taken; None where it can."""
    if len(trace_id) != 16 or trace_id == _NO_TRACE:
        return "span without a trace id (16 bytes, not all zero)"
    if len(span_id) != 8 or span_id == _NO_SPAN:
        return "span without a span id (8 bytes, not all zero)"
    if parent_id and len(parent_id) != 8:
        return "span with a parent span id that is not 8 bytes"
    if not start_ns:
        return "span without a start time"
    if end_ns < start_ns:
        return "span that ends before it starts"
    if end_ns > MAX_UNIX_NS:
        return "span that ends after the year 2262"
    return None


def refusals(refused: Counter[str]) -> list[Refusal]:
    return [Refusal(reason, count) for reason, count in refused.items()]


# Logs


@dataclass(frozen=True, slots=True)
class LogRecords:
    """How many log records a body holds."""

    with_usage: int  # GenAI events such as gen_ai.client.inference.operation.details
    others: int


def count_logs(body: bytes, *, content_type: str) -> LogRecords:
    """How many log records of a body of /v1/logs repeat a call's usage, and how many do not. They are not read further.

    Raises MalformedTelemetry and UnsupportedMedia.
    """
    if _media_type(content_type) == JSON:
        body = _from_json(ExportLogsServiceRequest, body).SerializeToString()
        content_type = PROTOBUF
    records = [
        record
        for resource_logs in parse(wire.ExportLogsServiceRequest, body, content_type).resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    ]
    with_usage = sum(_USAGE in record for record in records)
    return LogRecords(with_usage, len(records) - with_usage)
