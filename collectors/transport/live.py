"""The calls that an instrumentation is already watching in this context, so that the transport keeps still.

Every span that starts is remembered in the context that started it, for that is the context in which its request is
sent, whether or not the instrumentation makes its span the current one. What the span is about is asked only when a
request to a provider goes out: some set their attributes after the start.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind

from collectors.dialects import openinference, openllmetry, otel_genai

SCOPE = "collectors.transport"  # our own spans'
_REMEMBERED = 16
_FORGOTTEN_NS = 900 * 10**9  # who has had no answer by then, retries included, has lost its span
_CLIENT_SCOPES = (
    "com.anthropic.sdk.",
    "opentelemetry.instrumentation.genai.",
    "opentelemetry.util.genai",
)
_SYSTEM = ("gen_ai.provider.name", "gen_ai.system", "llm.system", "llm.provider")


class Live:
    """A span that has started, and whether its request has been answered."""

    __slots__ = ("is_answered", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.is_answered = False


_live: ContextVar[tuple[Live, ...]] = ContextVar("costwatch-live-spans", default=())


class RememberLive(SpanProcessor):
    """Remembers the spans that start in a context until they end."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        scope = span.instrumentation_scope
        if scope is not None and scope.name == SCOPE:
            return
        before = [live for live in _live.get() if live.span.is_recording()]
        _live.set((*before[1 - _REMEMBERED :], Live(span)))

    def on_end(self, span: ReadableSpan) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def watched_calls() -> list[Live]:
    """The calls of this context that are being watched and have had no answer yet.

    One that was answered is still open while its stream is read; a request beside it is another call.
    """
    remembered = _live.get()
    if not remembered:
        return []
    since_ns = time.time_ns() - _FORGOTTEN_NS
    return [
        live
        for live in remembered
        if not live.is_answered
        and live.span.is_recording()
        and (live.span.start_time or 0) > since_ns
        and _is_call(live.span)
    ]


def _is_call(span: Span) -> bool:
    said: Mapping[str, Any] = span.attributes or {}
    kind = said.get("openinference.span.kind") or said.get("traceloop.span.kind")
    if kind in openinference.WRAPPER_KINDS or kind in openllmetry.WRAPPER_KINDS:
        return False
    if kind in openinference.OPERATIONS:
        return True
    operation = said.get("gen_ai.operation.name") or said.get("llm.request.type")
    if operation is not None:
        return operation not in otel_genai.WRAPPER_OPERATIONS
    if span.kind is not SpanKind.CLIENT:
        return False
    scope = span.instrumentation_scope.name if span.instrumentation_scope else ""
    return scope.startswith(_CLIENT_SCOPES) or any(name in said for name in _SYSTEM)
