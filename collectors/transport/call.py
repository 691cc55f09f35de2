"""One call that passes the transport: a span that starts with the request and ends with the last byte of the answer.

While it passes, it is only kept: its context, its times, its request, and the ends of its answer. It is read, and made a
span, when drain() is called from a thread of ours, many at once, which costs a fraction of doing it in between.

A call that an instrumentation makes a span of is left to it, and gets only the fingerprint of its request: made by drain(),
too, or with the answer where that comes first.

Whatever goes wrong here stays here: a call that cannot be read costs the application nothing but its telemetry.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec
from urllib.parse import SplitResult, urlsplit

from opentelemetry.context import get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from collectors import semconv
from collectors.transport.answers import Answer, Attributes, read_answer
from collectors.transport.asked import Asked, read_request
from collectors.transport.excerpt import Excerpt
from collectors.transport.fingerprinting import Pending, begin_fingerprint, fingerprint_of
from collectors.transport.live import Live, watched_calls
from collectors.transport.routes import Protocol, Route, find_route, provider_of

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_SERVICE_TIER = {
    Protocol.OPENAI: "openai.response.service_tier",
    Protocol.ANTHROPIC: "anthropic.response.service_tier",
    Protocol.GOOGLE: "gen_ai.response.service_tier",
}
_MANY_WAITING = 64  # not to wait for the next turn with
_MOST_WAITING = 1024  # each keeps up to 80 KiB of its answer; others are read where they end

_tracer: Tracer | None = None
_wake: Callable[[], None] | None = None
_over: "deque[Call]" = deque()
_asked: "deque[Pending]" = deque()  # by others' calls


def _leave_to_the_parent() -> None:
    _over.clear()
    _asked.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def use_tracer(tracer: Tracer | None, *, wake: Callable[[], None] | None = None) -> None:
    """Where the calls go from here on; None: nowhere.

    wake   wakes somebody who calls drain(), and does so now and then; without one, each call is read where it ends
    """
    global _tracer, _wake
    _tracer, _wake = tracer, wake


def drain() -> None:
    """Read the requests that have begun, and make spans of the calls that have ended. Never raises."""
    with suppress(IndexError):  # another thread was faster
        while _asked:
            _asked.popleft().made()
    with suppress(IndexError):
        while _over:
            _over.popleft().emit()


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

    __slots__ = (
        "_body", "_context", "_ended_unix_ns", "_error_type", "_excerpt", "_first_chunk_unix_ns", "_has_ended",
        "_is_over", "_route", "_started_unix_ns", "_status", "_tracer", "_url",
    )  # fmt: skip

    def __init__(self, tracer: Tracer, route: Route, url: SplitResult, body: object) -> None:
        self._tracer = tracer
        self._route = route
        self._url = url
        # What the application may still change is read now.
        self._body = body if isinstance(body, bytes | str) else self._read(body)
        self._context = get_current()
        self._started_unix_ns = time.time_ns()
        self._ended_unix_ns = 0
        self._first_chunk_unix_ns = 0
        self._status = 0
        self._error_type = ""
        self._excerpt: Excerpt | None = None
        self._has_ended = False
        self._is_over = False

    def answered(self, status: int) -> None:
        self._status = status
        if 300 <= status < 400:
            self._is_over = True  # where it leads to is the call

    @_quietly
    def expect(self, content_encoding: str) -> None:
        if self._excerpt is None and self._status < 300:
            self._excerpt = Excerpt(content_encoding)

    def chunk(self, data: bytes) -> None:
        if self._first_chunk_unix_ns == 0 and data:
            self._first_chunk_unix_ns = time.time_ns()
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
        self._ended_unix_ns = time.time_ns()
        self._has_ended = has_ended
        self._error_type = error_type
        waiting = len(_over)
        if _wake is None or waiting >= _MOST_WAITING:
            self.emit()
            return
        _over.append(self)
        if waiting == _MANY_WAITING:
            _wake()

    def _read(self, body: object) -> Asked:
        return read_request(body, fingerprint_of(self._route))

    @_quietly
    def emit(self) -> None:
        """Read what was kept, and make a span of it."""
        asked = self._body if isinstance(self._body, Asked) else self._read(self._body)
        model = self._route.model or asked.model
        if self._route.is_ambiguous and not model:
            return
        said = self._asked_attributes(asked, model)
        answer = Answer()
        if self._excerpt is not None:
            answer = read_answer(self._excerpt, self._route.protocol)
        said.update(self._answer_attributes(answer))
        if said.get(semconv.REQUEST_STREAM) and self._first_chunk_unix_ns:
            waited_ns = self._first_chunk_unix_ns - self._started_unix_ns
            said[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = max(0, waited_ns) / 1e9
        span = self._tracer.start_span(
            f"{self._route.operation} {model}".rstrip(),
            self._context,
            SpanKind.CLIENT,
            said,
            start_time=self._started_unix_ns,
        )
        if semconv.ERROR_TYPE in said:
            span.set_status(Status(StatusCode.ERROR))
        span.end(max(self._ended_unix_ns, self._started_unix_ns))

    def _asked_attributes(self, asked: Asked, model: str) -> Attributes:
        route, url = self._route, self._url
        host = url.hostname or ""
        said: Attributes = {
            semconv.OPERATION_NAME: route.operation,
            semconv.PROVIDER_NAME: provider_of(host, route.protocol),
            semconv.SERVER_ADDRESS: host,
            semconv.SERVER_PORT: url.port or (80 if url.scheme == "http" else 443),
        }
        if model:
            said[semconv.REQUEST_MODEL] = model
        streaming = asked.streaming if route.streaming is None else route.streaming
        if streaming is not None:
            said[semconv.REQUEST_STREAM] = streaming
        said.update(asked.fingerprint)
        return said

    def _answer_attributes(self, answer: Answer) -> Attributes:
        said: Attributes = {}
        if answer.response_id:
            said[semconv.RESPONSE_ID] = answer.response_id
        if answer.model:
            said[semconv.RESPONSE_MODEL] = answer.model
        if answer.service_tier:
            said[_SERVICE_TIER[self._route.protocol]] = answer.service_tier
        if answer.is_last or (self._has_ended and not answer.error_type):
            # What a stream said before it was left is not what the provider counted in the end.
            said.update(answer.usage)
        error_type = self._error_type or (str(self._status) if self._status >= 400 else "")
        if error_type or answer.error_type:
            said[semconv.ERROR_TYPE] = error_type or answer.error_type
        return said

    def __del__(self) -> None:
        self.abandon()


class Watched(Watch):
    """A call that an instrumentation makes a span of: it gets its fingerprint when it is answered."""

    __slots__ = ("_fingerprint", "_live")

    def __init__(self, live: list[Live], fingerprint: Pending | None) -> None:
        self._live = live
        self._fingerprint = fingerprint

    @_quietly
    def answered(self, status: int) -> None:
        if status < 300:  # else the client may try again, for the same call
            for live in self._live:
                live.is_answered = True
        if self._fingerprint is not None:
            for live in self._live:
                live.span.set_attributes(self._fingerprint.made())


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
        fingerprint = begin_fingerprint(route, body)
        if fingerprint is not None and _wake is not None:
            _asked.append(fingerprint)
        return Watched(watched, fingerprint)
    return Call(tracer, route, parts, body())
