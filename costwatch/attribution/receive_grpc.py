"""The OTLP door for gRPC: TraceService, MetricsService and LogsService, as costwatch receive_grpc serves them.

Stateless; run as many as are needed. Bodies reach the same doors as over HTTP, and the answers are the same: what is
answered with OK is durable in Postgres. What may be sent again is told so by RetryInfo, in both places where
exporters look for it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from types import FrameType
from typing import Any

import grpc
from django.conf import settings
from django.core.signals import request_finished, request_started
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from collectors import otlp
from costwatch.attribution import doors
from costwatch.attribution.doors import Door, Refused

GRACE_SECONDS = 10

_DOORS: Mapping[str, Door] = {
    trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name: doors.traces,
    metrics_service_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name: doors.metrics,
    logs_service_pb2.DESCRIPTOR.services_by_name["LogsService"].full_name: doors.logs,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Beyond those at work and those who wait there are some who say no.
_SPARE_THREADS = 4
# HTTP/2 trailers hold some kilobytes, and a message may stand in two of them.
_MESSAGE_CHARACTERS = 500


class CannotListen(RuntimeError):
    """The address is in use, or none of this machine's."""


def serve(address: str) -> None:
    """Serve at this address, such as 127.0.0.1:4317, until SIGTERM or SIGINT; what was begun is finished first.

    Raises CannotListen.
    """
    server = listening(address)
    doors.ready_process()
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, stop)
    stopped.wait()
    server.stop(GRACE_SECONDS).wait()


def listening(address: str) -> Any:
    """A started grpc.Server at this address. Raises CannotListen."""
    server = grpc.server(
        futures.ThreadPoolExecutor(
            settings.OTLP_AT_WORK + settings.OTLP_WAITING + _SPARE_THREADS, "grpc"
        ),
        options=[
            # Of what a message inflates to, too: gRPC stops there.
            ("grpc.max_receive_message_length", settings.OTLP_MAX_BODY_BYTES),
            # Else a second server on the port would get every other connection, instead of an error.
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                service, {"Export": grpc.unary_unary_rpc_method_handler(_export(door))}
            )
            for service, door in _DOORS.items()
        )
    )
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotListen(
            f"cannot listen at {address!r}: expected HOST:PORT that is free, such as 127.0.0.1:4317"
        ) from error
    server.start()
    return server


def _export(door: Door) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        # Django's own housekeeping of the thread's connection hangs on these two signals.
        request_started.send(sender=export, environ={})
        try:
            return _answer(door, body, context).SerializeToString()
        except Exception as error:
            return _refuse(context, doors.refusal(error))
        finally:
            request_finished.send(sender=export)

    return export


def _answer(door: Door, body: bytes, context: grpc.ServicerContext) -> Message:
    said = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
    key = doors.sender(said.get("authorization", ""))
    with doors.admitted(key):
        if len(body) > doors.max_body_bytes(key):
            raise doors.too_large(key)
        return doors.enter(door, key, body, otlp.PROTOBUF)


def _refuse(context: grpc.ServicerContext, refused: Refused) -> bytes:
    message = str(refused)[:_MESSAGE_CHARACTERS]
    context.set_code(_CODES[refused.grpc_code])
    context.set_details(message)
    if refused.retry_seconds is not None:
        retry = RetryInfo(retry_delay=Duration(seconds=refused.retry_seconds))
        details = AnyMessage()
        details.Pack(retry)
        status = Status(code=refused.grpc_code, message=message, details=[details])
        context.set_trailing_metadata(
            (
                ("grpc-status-details-bin", status.SerializeToString()),  # as OTLP says
                # where OpenTelemetry's Python looks
                ("google.rpc.retryinfo-bin", retry.SerializeToString()),
            )
        )
    return b""
