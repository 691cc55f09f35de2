"""Calls that have ended → spans.

Where nobody but us would see it, a span is not made at all: its bytes are, which costs a third. Somebody else is there
where the application's provider has span processors of its own, or a sampler that may leave spans out: these see our
spans as they see every other, because they may change them (tags from baggage), count them or send them elsewhere.
The provider's limits on attributes are not ours: they are meant for what applications write.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, Tracer
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)
from opentelemetry.trace import Tracer as AnyTracer

from collectors import encode, semconv
from collectors.batches import KeepSpans
from collectors.context import TagSpans, current_tags
from collectors.transport.live import SCOPE, RememberLive

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_EACH_ANOTHER = frozenset({semconv.RESPONSE_ID, semconv.REQUEST_HASH, semconv.PREFIX_HASHES})
_SCOPE = InstrumentationScope(SCOPE, "")


class Common:
    """What calls to one server, of one model, have in common: a span's name and its first attributes."""

    __slots__ = ("attributes", "encoded", "name")

    def __init__(self, name: str, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.attributes = attributes
        self.encoded = encode.encode_name(name, SpanKind.CLIENT) + encode.encode_attributes(
            attributes
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over, and the OpenTelemetry context that it was made in."""

    common: Common
    attributes: dict[str, Any]
    context: Context
    times_unix_ns: tuple[int, int]
    has_failed: bool


class _Seen(NamedTuple):
    """Of a provider's processors: whether all are ours, and the tags that these put on everything."""

    processors: object
    is_ours_alone: bool
    defaults: dict[str, str]


class Spans:
    """Makes the spans of one tracer, and adds to those of others that are open."""

    def __init__(self, tracer: AnyTracer, keep: KeepSpans | None) -> None:
        """`keep` is the tracer's processor that sends what ends; None: there is another one."""
        self._tracer = tracer
        self._keep = keep
        self._seen = _Seen(None, False, {})

    def add(self, ended: Ended) -> None:
        """Make a span of a call."""
        tracer, keep = self._tracer, self._keep
        seen = self._look(tracer)
        if keep is None or not seen.is_ours_alone or not isinstance(tracer, Tracer):
            _through(tracer, ended)
            return
        found = get_current_span(ended.context).get_span_context()
        parent = found if found.is_valid else None
        if tracer.sampler is not ALWAYS_ON or (parent is not None and parent.trace_state):
            _through(tracer, ended)
            return
        keep.add(_encoded(tracer, ended, parent, seen.defaults))

    def add_late(self, span: Span, attributes: encode.Late) -> bool:
        """Have an open span get attributes that may not be made yet. False where somebody else is to see them, too."""
        if self._keep is None or not self._look(self._tracer).is_ours_alone:
            return False
        self._keep.add_late(span.get_span_context(), attributes)
        return True

    def _look(self, tracer: AnyTracer) -> "_Seen":
        """Who else sees what this tracer's spans are; an application may add one at any time."""
        processors = getattr(getattr(tracer, "span_processor", None), "_span_processors", None)
        seen = self._seen
        if processors is not seen.processors:
            known = processors if isinstance(processors, tuple) else (None,)
            is_ours = all(map(self._is_of_ours, known))
            seen = _Seen(processors, is_ours, _defaults_of(known))
            self._seen = seen
        return seen

    def _is_of_ours(self, processor: object) -> bool:
        return processor is self._keep or isinstance(processor, TagSpans | RememberLive)


def _encoded(
    tracer: Tracer, ended: Ended, parent: SpanContext | None, defaults: Mapping[str, str]
) -> encode.Piece:
    ids = tracer.id_generator
    trace_id = ids.generate_trace_id() if parent is None else parent.trace_id
    context = SpanContext(trace_id, ids.generate_span_id(), False, _SAMPLED)
    status = encode.FAILED if ended.has_failed else encode.UNSET
    rest = [ended.common.encoded, _variable(ended.attributes), status]
    tags = current_tags(ended.context)
    if defaults or tags:
        rest.append(encode.encode_attributes({**defaults, **tags}))
    fields = encode.encode_fields(context, parent, ended.times_unix_ns, b"".join(rest))
    return encode.Piece(encode.place_of(tracer.resource, _SCOPE), fields)


def _through(tracer: AnyTracer, ended: Ended) -> None:
    """By way of OpenTelemetry, for whoever else looks at spans."""
    began_unix_ns, ended_unix_ns = ended.times_unix_ns
    span = tracer.start_span(
        ended.common.name,
        ended.context,
        SpanKind.CLIENT,
        {**ended.common.attributes, **ended.attributes},
        start_time=began_unix_ns,
    )
    if ended.has_failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end(ended_unix_ns)


def _defaults_of(processors: Iterable[object]) -> dict[str, str]:
    """The tags that everything carries; who was added first has said it first."""
    found: dict[str, str] = {}
    for each in processors:
        if isinstance(each, TagSpans):
            found = {**each.defaults, **found}
    return found


def _variable(said: Mapping[str, Any]) -> bytes:
    usual = {name: value for name, value in said.items() if name not in _EACH_ANOTHER}
    others = [encode.encode_text(name, said[name]) for name in _EACH_ANOTHER if name in said]
    return encode.encode_attributes(usual) + b"".join(others)
