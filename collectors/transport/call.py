"""One call that passes the transport: a span that starts with the request and ends with the last byte of the answer.

While it passes, it is only kept: its context, its times, its request, and the ends of its answer. It is read, and made a
span, when drain() is called from a thread of ours, many at once, which costs a fraction of doing it in between.

A call that an instrumentation makes a span of is left to it, and gets only the fingerprint of its request: when its span is
kept, or, where others look at that span, too, with the answer at the latest.

Whatever goes wrong here stays here: a call that cannot be read costs the application nothing but its telemetry.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import ParamSpec

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Tracer

from collectors import semconv
from collectors.batches import KeepSpans
from collectors.transport.answers import Answer, Attributes, read_answer
from collectors.transport.asked import Asked, read_request
from collectors.transport.excerpt import Excerpt
from collectors.transport.fingerprinting import (
    Pending,
    begin_fingerprint,
    fingerprint_of,
    waiting,
)
from collectors.transport.live import Live, watched_calls
from collectors.transport.routes import Destination, Protocol, find_destination
from collectors.transport.spans import Common, Ended, Spans

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_SERVICE_TIER = {
    Protocol.OPENAI: "openai.response.service_tier",
    Protocol.ANTHROPIC: "anthropic.response.service_tier",
    Protocol.GOOGLE: "gen_ai.response.service_tier",
}
_LONGEST_KEPT = 200  # characters of a model's name
_MANY_WAITING = 256  # not to wait for the next turn with
_MOST_WAITING = 1024  # others are read where they end

_spans: Spans | None = None
_wake: Callable[[], None] | None = None
_over: "deque[tuple[Call, int]]" = deque()  # with the bytes that wait with it
_asked: "deque[Pending]" = deque()  # by others' calls


def _leave_to_the_parent() -> None:
    _over.clear()
    _asked.clear()
    waiting.forget()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def use_tracer(
    tracer: Tracer | None,
    *,
    wake: Callable[[], None] | None = None,
    keep: KeepSpans | None = None,
) -> None:
    """Where the calls go from here on; None: nowhere.

    wake   wakes somebody who calls drain(), and does so now and then; without one, each call is read where it ends
    keep   the processor of ours that sends what this tracer's spans are
    """
    global _spans, _wake
    _spans, _wake = Spans(tracer, keep) if tracer is not None else None, wake


def drain() -> None:
    """Read the requests that have begun, and make spans of the calls that have ended. Never raises."""
    if not (_asked or _over):
        return
    # The tags of whoever happens to flush are not those of the calls.
    token = attach(Context())
    try:
        with suppress(IndexError):  # another thread was faster
            while _asked:
                _asked.popleft().made()
        with suppress(IndexError):
            while _over:
                call, size_bytes = _over.popleft()
                call.emit()
                waiting.let_go(size_bytes)
    finally:
        detach(token)


def _quietly(does: Callable[_P, None]) -> Callable[_P, None]:
    @functools.wraps(does)
    def quiet(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            does(*args, **kwargs)
        except Exception:
            logger.debug("a call was not read to its end", exc_info=True)

    return quiet


class Watch:
    """What a client's transport tells about one request; every method may be called twice, or never.

    reads_body   whether it wants to be told of more than the answer's headers
    """

    __slots__ = ()
    reads_body = False

    def answered(self, status: int) -> None:
        """The answer's headers are here."""

    def expect(self, content_encoding: str) -> None:
        """Chunks will come in this encoding."""

    def chunk(self, data: bytes) -> None:
        """A chunk of the answer's body, in order."""

    def room(self) -> list[bytes]:
        """A list to put the next few chunks into, which is cheaper than to tell of each; then ask for another."""
        return []

    def end(self) -> None:
        """The body has been read to its end."""

    def abandon(self) -> None:
        """Nobody will read on; says nothing new where the end was seen."""

    def fail(self, error: BaseException) -> None:
        """The request, or reading its answer, raised this."""


class Call(Watch):
    """A call that is nobody else's: it becomes a span."""

    __slots__ = (
        "_body", "_context", "_destination", "_ended_unix_ns", "_error_type", "_excerpt", "_first_chunk_unix_ns",
        "_has_ended", "_is_over", "_spans", "_started_unix_ns", "_status",
    )  # fmt: skip
    reads_body = True

    def __init__(self, spans: Spans, destination: Destination, body: object) -> None:
        self._spans = spans
        self._destination = destination
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
                self._give_up()

    def room(self) -> list[bytes]:
        if self._excerpt is not None:
            try:
                return self._excerpt.room()
            except Exception:
                self._give_up()
        return []

    def _give_up(self) -> None:
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
        if self._excerpt is not None:
            self._excerpt.shorten()
        size_bytes = self._size_bytes()
        many = len(_over)
        if _wake is None or many >= _MOST_WAITING or not waiting.take(size_bytes):
            self.emit()
            return
        _over.append((self, size_bytes))
        if many == _MANY_WAITING or waiting.is_much():
            _wake()

    def _size_bytes(self) -> int:
        asked = 0 if isinstance(self._body, Asked) else len(self._body)
        return asked if self._excerpt is None else asked + self._excerpt.size_bytes()

    def _read(self, body: object) -> Asked:
        return read_request(body, fingerprint_of(self._destination.route))

    @_quietly
    def emit(self) -> None:
        """Read what was kept, and make a span of it."""
        asked = self._body if isinstance(self._body, Asked) else self._read(self._body)
        route = self._destination.route
        model = route.model or asked.model
        if route.is_ambiguous and not model:
            return
        streaming = asked.streaming if route.streaming is None else route.streaming
        said: Attributes = {**asked.fingerprint}
        self._add_answer(said)
        if streaming and self._first_chunk_unix_ns:
            waited_ns = self._first_chunk_unix_ns - self._started_unix_ns
            said[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = max(0, waited_ns) / 1e9
        times = self._started_unix_ns, max(self._ended_unix_ns, self._started_unix_ns)
        make = _kept_common if len(model) <= _LONGEST_KEPT else _common
        common = make(self._destination, model, streaming)
        self._spans.add(Ended(common, said, self._context, times, semconv.ERROR_TYPE in said))

    def _answer(self) -> Answer:
        if self._excerpt is None:
            return Answer()
        try:
            return read_answer(self._excerpt, self._destination.route.protocol)
        except Exception:
            logger.debug("the answer's encoding cannot be read", exc_info=True)
            return Answer()

    def _add_answer(self, said: Attributes) -> None:
        answer = self._answer()
        if answer.response_id:
            said[semconv.RESPONSE_ID] = answer.response_id
        if answer.model:
            said[semconv.RESPONSE_MODEL] = answer.model
        if answer.service_tier:
            said[_SERVICE_TIER[self._destination.route.protocol]] = answer.service_tier
        if answer.is_last or (self._has_ended and not answer.error_type):
            # What a stream said before it was left is not what the provider counted in the end.
            said.update(answer.usage)
        error_type = self._error_type or (str(self._status) if self._status >= 400 else "")
        if error_type or answer.error_type:
            said[semconv.ERROR_TYPE] = error_type or answer.error_type

    def __del__(self) -> None:
        self.abandon()


def _common(destination: Destination, model: str, streaming: bool | None) -> Common:
    said: Attributes = {
        semconv.OPERATION_NAME: destination.route.operation,
        semconv.PROVIDER_NAME: destination.provider,
        semconv.SERVER_ADDRESS: destination.host,
        semconv.SERVER_PORT: destination.port,
    }
    if model:
        said[semconv.REQUEST_MODEL] = model
    if streaming is not None:
        said[semconv.REQUEST_STREAM] = streaming
    return Common(f"{destination.route.operation} {model}".rstrip(), said)


_kept_common = lru_cache(maxsize=512)(_common)


class Watched(Watch):
    """A call that an instrumentation makes a span of: it gets its fingerprint when it is answered."""

    __slots__ = ("_fingerprint", "_live", "_spans")

    def __init__(self, spans: Spans, live: list[Live], fingerprint: Pending | None) -> None:
        self._spans = spans
        self._live = live
        self._fingerprint = fingerprint

    @_quietly
    def answered(self, status: int) -> None:
        if status < 300:  # else the client may try again, for the same call
            for live in self._live:
                live.is_answered = True
        if self._fingerprint is not None:
            for live in self._live:
                self._add(live, self._fingerprint)

    def _add(self, live: Live, fingerprint: Pending) -> None:
        if not self._spans.add_late(live.span, fingerprint.made):
            live.span.set_attributes(fingerprint.made())


def begin(method: str, url: str, body: Callable[[], object]) -> Watch | None:
    """Begin to watch a request; None where it is no inference call, or nobody wants to know.

    `url` is whole, with its host. `body` is asked only where the path is an inference call's. Never raises.
    """
    if _spans is None or method != "POST":
        return None
    try:
        return _begin(_spans, url, body)
    except Exception:
        logger.debug("a request was not looked at", exc_info=True)
        return None


def _begin(spans: Spans, url: str, body: Callable[[], object]) -> Watch | None:
    destination = find_destination(url.partition("?")[0])
    if destination is None or not is_instrumentation_enabled():
        return None
    watched = watched_calls()
    if watched:
        return _watched(spans, watched, begin_fingerprint(destination.route, body))
    return Call(spans, destination, body())


def _watched(spans: Spans, live: list[Live], fingerprint: Pending | None) -> Watched:
    if fingerprint is not None and _wake is not None:
        if fingerprint.can_wait():
            _asked.append(fingerprint)
        else:
            fingerprint.made()
        if waiting.is_much():
            _wake()
    return Watched(spans, live, fingerprint)
