"""The application on a real port of this machine, and a receiver of telemetry on another."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.server.app import Application
from serving.server.http_server import HttpServer


class RunningServer:
    """stop() is what SIGTERM does."""

    def __init__(self, app: Application, drain_seconds: int = 20) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        is_ready = threading.Event()
        self._server = HttpServer(app, drain_seconds, is_ready.set)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()
        assert is_ready.wait(20), "the server did not start"
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def ask_to_stop(self) -> None:
        self._server.drain()

    def stop(self) -> None:
        self.ask_to_stop()
        self._thread.join()
        self._listener.close()


@contextlib.contextmanager
def running(app: Application, drain_seconds: int = 20) -> Iterator[RunningServer]:
    server = RunningServer(app, drain_seconds)
    try:
        yield server
    finally:
        server.stop()


class Receiver:
    """An OTLP/HTTP receiver that keeps what it gets. answers holds status codes to give before it takes anything."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.answers: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False  # joined when it closes: no connection stays behind
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.traces
            for resource in body.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def points(self, name: str) -> list[list[NumberDataPoint]]:
        """The points of a sum, one list per export."""
        return [
            list(metric.sum.data_points)
            for body in self.metrics
            for resource in body.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.answers.pop(0) if receiver.answers else 200
            if status == 200:
                self._keep(body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _keep(self, body: bytes) -> None:
            if self.path == "/v1/traces":
                receiver.traces.append(ExportTraceServiceRequest.FromString(body))
            else:
                receiver.metrics.append(ExportMetricsServiceRequest.FromString(body))

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler


def said(attributes: object) -> dict[str, object]:
    """Attributes as a dict."""
    return {pair.key: _plain(pair.value) for pair in attributes}  # type: ignore[attr-defined]


def _plain(value: AnyValue) -> object:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, which) if which else None


def eventually(is_so: Callable[[], object], what: str) -> None:
    """Wait until something that happens in another thread has happened."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.005)


__all__ = ["Receiver", "RunningServer", "eventually", "running", "said"]
