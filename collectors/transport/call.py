"""One call that passes the transport: a span that starts with the request and ends with the last byte of the answer.

Whatever goes wrong here stays here: a call that cannot be read costs the application nothing but its telemetry.
"""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, ParamSpec
from urllib.parse import urlsplit

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from collectors import semconv
from collectors.transport.answers import Answer, Attributes, read_answer
from collectors.transport.asked import read_request
from collectors.transport.excerpt import Excerpt
from collectors.transport.live import Live, watched_calls
from collectors.transport.routes import Protocol, Route, find_route, provider_of

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_SERVICE_TIER = {
    Protocol.OPENAI: "openai.response.service_tier",
    Protocol.ANTHROPIC: "anthropic.response.service_tier",
    Protocol.GOOGLE: "gen_ai.response.service_tier",
}
_tracer: Tracer | None = None


def use_tracer(tracer: Tracer | None) -> None:
    """Where the calls go from here on; None: nowhere."""
    global _tracer
    _tracer = tracer


def _quietly(does: Callable[_P, None]) -> Callable[_P, None]:
    @functools.wraps(does)
    def quiet(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            does(*args, **kwargs)
        except Exception:
            logger.debug("a call was not read to its end", exc_info=True)

    return quiet


class Watch:
    """What a client's transport tells about one request; every method may be called twice, or never."""

    def answered(self, status: int) -> None:
        """The answer's headers are here."""

    def expect(self, content_encoding: str) -> None:
        """Chunks will come in this encoding."""

    def chunk(self, data: bytes) -> None:
        """A chunk of the answer's body, in order."""

    def end(self) -> None:
        """The body has been read to its end."""

    def abandon(self) -> None:
        """Nobody will read on; says nothing new where the end was seen."""

    def fail(self, error: BaseException) -> None:
        """The request, or reading its answer, raised this."""


class Call(Watch):
    """A call that is nobody else's: it becomes a span."""

    __slots__ = ("_excerpt", "_first_chunk_ns", "_is_over", "_route", "_span", "_started_ns", "_status", "_streaming")  # fmt: skip

    def __init__(self, span: Span, route: Route, streaming: bool | None) -> None:
        self._span = span
        self._route = route
        self._streaming = streaming
        self._started_ns = time.perf_counter_ns()
        self._first_chunk_ns = 0
        self._status = 0
        self._excerpt: Excerpt | None = None
        self._is_over = False

    def answered(self, status: int) -> None:
        self._status = status
        if 300 <= status < 400:
            self._is_over = (
                True  # where it leads to is the call; a span without an end is never sent
            )

    @_quietly
    def expect(self, content_encoding: str) -> None:
        if self._excerpt is None and self._status < 300:
            self._excerpt = Excerpt(content_encoding)

    def chunk(self, data: bytes) -> None:
        if self._first_chunk_ns == 0 and data:
            self._first_chunk_ns = time.perf_counter_ns()
        if self._excerpt is not None:
            try:
                self._excerpt.feed(data)
            except Exception:
                self._excerpt = None
                logger.debug("the answer's encoding cannot be read", exc_info=True)

    @_quietly
    def end(self) -> None:
        self._finish(has_ended=True)

    @_quietly
    def abandon(self) -> None:
        self._finish(has_ended=False)

    @_quietly
    def fail(self, error: BaseException) -> None:
        self._finish(has_ended=False, error_type=type(error).__qualname__)

    def _finish(self, *, has_ended: bool, error_type: str = "") -> None:
        if self._is_over:
            return
        self._is_over = True
        answer = Answer()
        if self._excerpt is not None:
            answer = read_answer(self._excerpt, self._route.protocol)
        if self._status >= 400:
            error_type = error_type or str(self._status)
        error_type = error_type or answer.error_type
        is_whole = answer.is_last or (has_ended and not answer.error_type)
        self._span.set_attributes(self._said(answer, is_whole=is_whole))
        if error_type:
            self._span.set_attribute(semconv.ERROR_TYPE, error_type)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        self._excerpt = None

    def _said(self, answer: Answer, *, is_whole: bool) -> Attributes:
        said: Attributes = {}
        if answer.response_id:
            said[semconv.RESPONSE_ID] = answer.response_id
        if answer.model:
            said[semconv.RESPONSE_MODEL] = answer.model
        if answer.service_tier:
            said[_SERVICE_TIER[self._route.protocol]] = answer.service_tier
        if self._streaming and self._first_chunk_ns:
            waited_ns = self._first_chunk_ns - self._started_ns
            said[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = waited_ns / 1e9
        if is_whole:
            # What a stream said before it was left is not what the provider counted in the end.
            said.update(answer.usage)
        return said

    def __del__(self) -> None:
        self.abandon()


class Watched(Watch):
    """A call that an instrumentation makes a span of: all we have to know is when it was answered."""

    __slots__ = ("_live",)

    def __init__(self, live: list[Live]) -> None:
        self._live = live

    def answered(self, status: int) -> None:
        if status < 300:  # else the client may try again, for the same call
            for live in self._live:
                live.is_answered = True


def begin(method: str, url: str, body: Callable[[], object]) -> Watch | None:
    """Begin to watch a request; None where it is no inference call, or nobody wants to know.

    `url` is whole, with its host. `body` is asked only where the path is an inference call's. Never raises.
    """
    if _tracer is None or method != "POST":
        return None
    try:
        return _begin(_tracer, method, url, body)
    except Exception:
        logger.debug("a request was not looked at", exc_info=True)
        return None


def _begin(tracer: Tracer, method: str, url: str, body: Callable[[], object]) -> Watch | None:
    parts = urlsplit(url)
    route = find_route(method, parts.path)
    if route is None or not is_instrumentation_enabled():
        return None
    watched = watched_calls()
    if watched:
        return Watched(watched)
    asked = read_request(body())
    model = route.model or asked.model
    if route.is_ambiguous and not model:
        return None
    streaming = asked.streaming if route.streaming is None else route.streaming
    host = parts.hostname or ""
    attributes: dict[str, Any] = {
        semconv.OPERATION_NAME: route.operation,
        semconv.PROVIDER_NAME: provider_of(host, route.protocol),
        semconv.SERVER_ADDRESS: host,
        semconv.SERVER_PORT: parts.port or (80 if parts.scheme == "http" else 443),
    }
    if model:
        attributes[semconv.REQUEST_MODEL] = model
    if streaming is not None:
        attributes[semconv.REQUEST_STREAM] = streaming
    name = f"{route.operation} {model}".rstrip()
    span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    return Call(span, route, streaming)
