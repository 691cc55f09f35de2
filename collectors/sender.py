"""The thread that sends what waits in an outbox: the oldest first, with patience, and never in the application's way."""

import email.utils
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from collectors.outbox import LONGEST_PAUSE_SECONDS, Outbox, Waiting, remove

logger = logging.getLogger(__name__)

EXIT_SECONDS = 2.0  # the longest that an application's exit waits for the receiver
_TIMEOUT_SECONDS = 10.0
_IDLE_SECONDS = 5.0  # between looks for what another process left behind
_BUSY_SECONDS = 0.05  # until the process that is sending may be done
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_POISON_ATTEMPTS = (
    8  # a body that the receiver breaks on so often is refused, for the sake of those behind it
)

# Not the body's fault: the next attempt may go well. 401, 403 and 404 are repaired where the receiver is set up.
_COME_BACK = frozenset({408, 425, 429, 500, 502, 503, 504})
_CLOSED = frozenset({401, 403, 404, 407})


class Outcome(Enum):
    """What became of one attempt."""

    TAKEN = auto()
    REFUSED = auto()
    LATER = auto()


@dataclass(slots=True)
class Counts:
    """Spans and metrics that this process sent, or lost."""

    sent: int = 0
    refused: int = 0


class Sender:
    """Keeps bodies in an outbox and sends them to one receiver, in a thread of its own."""

    def __init__(self, outbox: Outbox, urls: Mapping[str, str], headers: Mapping[str, str]) -> None:
        """`urls` by kind of body; `headers` open the receiver's door."""
        self.outbox = outbox
        self.counts = Counts()
        self._urls = urls
        self._headers = {
            **headers,
            "content-type": "application/x-protobuf",
            "content-encoding": "gzip",
        }
        self._attempts: dict[str, int] = {}
        self._failures = 0
        self._complained = ""
        self._exits_by: float | None = None
        self._start()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start(self) -> None:
        self._session: Any = None
        self._ways: dict[str, dict[str, Any]] = {}  # by URL: proxies and certificates
        self._wake = threading.Event()
        self._idle = threading.Event()  # nothing waits, or what waits cannot be sent now
        threading.Thread(target=self._run, name="costwatch-sender", daemon=True).start()

    def _start_anew(self) -> None:
        """A forked child has the parent's state, and none of its threads."""
        self.outbox.forget_lock()
        self._start()

    def keep(self, kind: str, body: bytes, items: int) -> bool:
        """Keep a gzipped body and send it as soon as possible. False where there is no room for it."""
        is_kept = self.outbox.put(kind, body, items)
        self._idle.clear()
        self._wake.set()
        return is_kept

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything is sent, or cannot be for now. True where nothing waits any more."""
        self._idle.clear()
        self._wake.set()
        self._idle.wait(timeout_seconds)
        return not self.outbox.waiting()

    def leave(self) -> None:
        """Send what can be sent before the process ends, in EXIT_SECONDS at most, however often this is called.

        What is left waits on disk for the next process. The thread goes on: somebody else's exit may bring more.
        """
        if self._exits_by is None:
            self._exits_by = time.monotonic() + EXIT_SECONDS
        if not self.outbox.waiting():
            return
        if not self.flush(max(0.0, self._exits_by - time.monotonic())):
            left = sum(each.items for each in self.outbox.waiting())
            logger.info("costwatch: %d spans and metrics wait in %s", left, self.outbox.folder)

    def _run(self) -> None:
        with suppress_instrumentation():
            self.outbox.sweep()
            self._wake.set()  # for what an earlier process left
            patience_seconds = _IDLE_SECONDS
            while True:
                self._wake.wait(patience_seconds)
                self._wake.clear()
                is_settled = self._send_what_waits()
                patience_seconds = _IDLE_SECONDS if is_settled else _BUSY_SECONDS
                patience_seconds = min(
                    self.outbox.pause_seconds() or patience_seconds, _IDLE_SECONDS
                )
                if is_settled and not self._wake.is_set():
                    self._idle.set()

    def _send_what_waits(self) -> bool:
        """False where another process is sending just now. Whatever goes wrong, the thread lives on."""
        try:
            return bool(self.outbox.pause_seconds()) or self._drain()
        except Exception:
            logger.warning("costwatch could not send what waits", exc_info=True)
            return True

    def _drain(self) -> bool:
        with self.outbox.sending() as is_ours:
            if not is_ours:
                return False
            while waiting := self.outbox.waiting():
                if not all(self._settle(body) for body in waiting):
                    break
            return True

    def _settle(self, body: Waiting) -> bool:
        """Try one body. False where the others have to wait as well."""
        outcome, why, retry_after_seconds = self._try(body)
        if outcome is Outcome.LATER and self._is_poison(body, why):
            outcome = Outcome.REFUSED
        if outcome is Outcome.LATER:
            self._pause(why, retry_after_seconds)
            return False
        if outcome is Outcome.REFUSED:
            self.counts.refused += body.items
            logger.warning("costwatch: %d %s refused for good: %s", body.items, body.kind, why)
        else:
            self.counts.sent += body.items
        self._attempts.pop(body.path.name, None)
        self._failures, self._complained = 0, ""
        remove(body)
        return True

    def _is_poison(self, body: Waiting, why: str) -> bool:
        if not why.startswith("HTTP 500"):
            return False
        name = body.path.name
        self._attempts[name] = self._attempts.get(name, 0) + 1
        return self._attempts[name] >= _POISON_ATTEMPTS

    def _pause(self, why: str, retry_after_seconds: float | None) -> None:
        self._failures += 1
        longest = min(_FIRST_PAUSE_SECONDS * 2 ** (self._failures - 1), _LONGEST_PAUSE_SECONDS)
        # Half of it by chance, so that processes that failed together do not come back together.
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311
        if retry_after_seconds is not None:
            seconds = min(retry_after_seconds, LONGEST_PAUSE_SECONDS)
        self.outbox.pause_until(time.time() + seconds)
        if why != self._complained:
            self._complained = why
            logger.warning("costwatch cannot send now (%s); telemetry waits in %s", why, self.outbox.folder)  # fmt: skip

    def _try(self, body: Waiting) -> tuple[Outcome, str, float | None]:
        """One attempt: what became of it, why, and when the receiver wants to see us again."""
        content = body.path.read_bytes()
        try:
            response = self._post(self._urls[body.kind], content)
        except Exception as error:  # whatever the network raises
            return Outcome.LATER, f"{type(error).__name__}: {error}", None
        status = response.status_code
        if 200 <= status < 300:
            self._note_partial_success(body.kind, response.content)
            return Outcome.TAKEN, "", None
        why = f"HTTP {status}: {response.text[:200]}"
        if status in _COME_BACK or status in _CLOSED:
            return Outcome.LATER, why, retry_after(response.headers.get("retry-after"))
        return Outcome.REFUSED, why, None

    def _post(self, url: str, content: bytes) -> Any:
        if self._session is None:
            self._session, self._ways = _session(self._urls.values())
        return self._session.post(
            url, data=content, headers=self._headers, timeout=_TIMEOUT_SECONDS, allow_redirects=False,
            **self._ways[url],
        )  # fmt: skip

    def _note_partial_success(self, kind: str, content: bytes) -> None:
        """The receiver may take a body and refuse some of it; to send it again would not help."""
        try:
            refused, why = _partial(kind, content)
        except DecodeError:
            return
        if refused:
            self.counts.refused += refused
            logger.warning("costwatch: the receiver refused %d %s: %s", refused, kind, why)


def _partial(kind: str, content: bytes) -> tuple[int, str]:
    if kind == "traces":
        of_traces = ExportTraceServiceResponse.FromString(content).partial_success
        return of_traces.rejected_spans, of_traces.error_message
    of_metrics = ExportMetricsServiceResponse.FromString(content).partial_success
    return of_metrics.rejected_data_points, of_metrics.error_message


def _session(urls: Iterable[str]) -> tuple[Any, dict[str, dict[str, Any]]]:
    """requests knows proxies and certificates from the environment; it is loaded when there is something to send.

    It is asked once for each URL: for every request it would take as long as the request itself, and look for another
    key in ~/.netrc.
    """
    import requests

    session = requests.Session()
    environ = os.environ
    if certificate := environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE"):
        session.verify = certificate
    client = environ.get("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")
    key = environ.get("OTEL_EXPORTER_OTLP_CLIENT_KEY")
    if client:
        session.cert = (client, key) if key else client
    ways = {url: session.merge_environment_settings(url, {}, None, None, None) for url in urls}
    session.trust_env = False
    return session, ways


def retry_after(said: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date (RFC 9110); None where it says neither."""
    if not said:
        return None
    try:
        seconds = float(said)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now())
    except ValueError:
        return None
