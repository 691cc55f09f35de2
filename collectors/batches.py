"""Ended spans, from the application's threads to the outbox.

Each is encoded where it ends. OpenTelemetry's own batches keep the spans themselves until they are exported, hundreds of
objects that the garbage collector looks at again and again meanwhile, at the application's cost; bytes it leaves alone.
"""

import gzip
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext

from collectors.encode import Late, Piece, encode_span, join
from collectors.sender import Sender

logger = logging.getLogger(__name__)

DELAY_SECONDS = (
    0.5  # until they are on disk, spans are lost with the process, which may be killed at any time
)
_BATCH = 512
_MOST_IN_MEMORY = 16 * _BATCH
_MOST_LATE = 8192  # spans that are open; who leaves more of them open than that does not end them
_COMPRESSION = 1  # fast; attributes repeat so much that more gains little


class KeepSpans(SpanProcessor):
    """Puts ended spans on disk for the sender, in batches; never blocks who ends one."""

    def __init__(self, sender: Sender, before: Callable[[], None] = lambda: None) -> None:
        """`before` is called whenever spans are about to be kept, and when somebody wakes us, and may add some more."""
        self._sender = sender
        self._before = before
        self._pieces: deque[Piece] = deque()
        self._late: dict[int, Late] = {}
        self._start()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="costwatch-spans", daemon=True).start()

    def _start_anew(self) -> None:
        """A forked child has no thread of its parent's, and leaves the parent's spans to the parent."""
        self._pieces.clear()
        self._late.clear()
        self._start()

    def wake(self) -> None:
        """There is more to read than should wait for the next turn."""
        self._wake.set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None:
            return
        late = self._late.pop(context.span_id, None) if self._late else None
        if not context.trace_flags.sampled:
            return
        try:
            self.add(encode_span(span, late))
        except Exception:
            logger.debug("a span cannot be encoded", exc_info=True)

    def add(self, piece: Piece) -> None:
        """One more span to keep."""
        waiting = len(self._pieces)
        if waiting >= _MOST_IN_MEMORY:
            self._sender.outbox.drop("traces", 1, "spans end faster than the disk takes them")
            return
        self._pieces.append(piece)
        if waiting + 1 == _BATCH:
            self._wake.set()

    def add_late(self, context: SpanContext, late: Late) -> None:
        """An open span gets these attributes, too, which are made by the time that it is kept."""
        if len(self._late) >= _MOST_LATE:
            self._late.pop(next(iter(self._late)), None)
        self._late[context.span_id] = late

    def _run(self) -> None:
        with suppress_instrumentation():
            kept_at = time.monotonic()
            while True:
                self._wake.wait(max(0.0, kept_at + DELAY_SECONDS - time.monotonic()))
                self._wake.clear()
                is_due = time.monotonic() >= kept_at + DELAY_SECONDS
                try:
                    # Whoever wakes us wants to be read; a file and a request for each such time would cost more than that.
                    with self._lock:
                        self._before()
                    if is_due or len(self._pieces) >= _BATCH:
                        kept_at = time.monotonic()
                        self._keep_all()
                except Exception:
                    logger.warning("costwatch could not keep spans", exc_info=True)

    def _keep_all(self) -> None:
        with self._lock:  # who flushes waits for what our thread is reading just now
            self._before()
            while self._pieces:
                count = min(len(self._pieces), _BATCH)
                batch = [self._pieces.popleft() for _ in range(count)]
                self._sender.keep("traces", gzip.compress(join(batch), _COMPRESSION), count)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have everything on disk. True: what found no room there is counted, not waited for."""
        self._keep_all()
        return True

    def shutdown(self) -> None:
        self._keep_all()
        self._sender.leave()
