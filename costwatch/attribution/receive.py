"""The OTLP door: POST /v1/traces, /v1/metrics and /v1/logs over HTTP, protobuf or JSON, gzip or not.

A WSGI application of its own, stateless; run as many as are needed. What it answers with 200 is durable in Postgres.
The protocol's rules (OTLP 1.x): a body that can't be read is 400 and not to be sent again; a database that can't be
reached is 503 with Retry-After; single spans that are refused are counted in the partial success of a 200.

    Refused         an answer instead of a result
    ├─ 400 malformed   401 unknown key   404, 405 wrong door   413 too large   415 unknown type
    └─ 503 try again
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

import django
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")
django.setup()

from django.conf import settings  # noqa: E402  models need the setup above
from django.core.signals import request_finished, request_started  # noqa: E402
from django.db import InterfaceError, OperationalError  # noqa: E402
from django.db.models import Q  # noqa: E402
from django.utils import timezone  # noqa: E402
from kombu.exceptions import OperationalError as BrokerError  # noqa: E402

from collectors import otlp  # noqa: E402
from collectors.observation import Decoded  # noqa: E402
from costwatch.accounts.models import IngestKey  # noqa: E402
from costwatch.attribution import ingest  # noqa: E402
from costwatch.attribution.tasks import add_batches  # noqa: E402

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

_RETRY_AFTER_SECONDS = 5
_ASK_EVERY_SECONDS = 0.25
_USED_EVERY = timedelta(minutes=1)
# google.rpc.Code, which OTLP wants in the body of an error.
_GRPC_CODES = {400: 3, 401: 16, 404: 12, 405: 12, 413: 3, 415: 3, 503: 14}

_asked_at: dict[int, float] = {}


class Refused(Exception):
    """The request gets this answer instead of a result."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    content_type = environ.get("CONTENT_TYPE", "").split(";")[0].strip().lower()
    # Django's own housekeeping of the thread's connection hangs on these two signals.
    request_started.send(sender=application, environ=environ)
    try:
        answer = _answer(environ, content_type)
        return _respond(start_response, HTTPStatus.OK, answer, content_type)
    except Refused as refused:
        error = Status(code=_GRPC_CODES[refused.status], message=str(refused))
        return _respond(start_response, refused.status, error, content_type)
    except (OperationalError, InterfaceError) as error:
        # The sender keeps the body and comes again; nothing of it was written.
        logger.warning("a body was refused, the database said: %s", error)
        message = "the database cannot be reached; send it again"
        status = HTTPStatus.SERVICE_UNAVAILABLE
        return _respond(start_response, status, Status(code=14, message=message), content_type)
    except Exception:
        # A defect of ours, or a body that the tables cannot hold: sending it again will not help.
        logger.exception("a body of %s was not taken", environ.get("PATH_INFO", ""))
        message = "this body cannot be taken; the receiver's log says why"
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return _respond(start_response, status, Status(code=13, message=message), content_type)
    finally:
        request_finished.send(sender=application)


def _answer(environ: WSGIEnvironment, content_type: str) -> Message:
    door = _door(environ)
    if content_type not in {otlp.PROTOBUF, otlp.JSON}:
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content type {content_type!r}: expected {otlp.PROTOBUF} or {otlp.JSON}",
        )
    key = _key(environ)
    return door(key, _body(environ), content_type)


def _traces(key: IngestKey, body: bytes, content_type: str) -> Message:
    taken = _take(key, _decode(otlp.decode_traces, body, content_type))
    response = ExportTraceServiceResponse()
    if taken.refusals:
        response.partial_success.rejected_spans = sum(r.count for r in taken.refusals)
        response.partial_success.error_message = _reasons(taken)
    return response


def _metrics(key: IngestKey, body: bytes, content_type: str) -> Message:
    taken = _take(key, _decode(otlp.decode_metrics, body, content_type))
    response = ExportMetricsServiceResponse()
    if taken.refusals:
        response.partial_success.rejected_data_points = sum(r.count for r in taken.refusals)
        response.partial_success.error_message = _reasons(taken)
    return response


def _logs(_key: IngestKey, _body: bytes, _content_type: str) -> Message:
    """Log events carry no usage of their own: they are taken and dropped, as OTLP allows."""
    return ExportLogsServiceResponse()


_DOORS: dict[str, Callable[[IngestKey, bytes, str], Message]] = {
    "/v1/traces": _traces,
    "/v1/metrics": _metrics,
    "/v1/logs": _logs,
}


def _door(environ: WSGIEnvironment) -> Callable[[IngestKey, bytes, str], Message]:
    path = environ.get("PATH_INFO", "").rstrip("/")
    if path not in _DOORS:
        raise Refused(HTTPStatus.NOT_FOUND, f"no door at {path!r}; there are {', '.join(_DOORS)}")
    if environ["REQUEST_METHOD"] != "POST":
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED, f"{environ['REQUEST_METHOD']} {path}: expected POST"
        )
    return _DOORS[path]


def _key(environ: WSGIEnvironment) -> IngestKey:
    """The ingest key of the request. Which of unknown, revoked or missing it was, a stranger need not know."""
    scheme, _, secret = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    key = (
        IngestKey.objects.filter(
            secret_hash=IngestKey.hash_of(secret.strip()), revoked_at=None
        ).first()
        if scheme.lower() == "bearer"
        else None
    )
    if key is None:
        raise Refused(
            HTTPStatus.UNAUTHORIZED,
            "the ingest key is missing, unknown or revoked; send Authorization: Bearer cwk_…",
        )
    now = timezone.now()
    # Once a minute is enough to know whether a key is still in use, and spares a write per body.
    IngestKey.objects.filter(
        Q(last_used_at=None) | Q(last_used_at__lt=now - _USED_EVERY), pk=key.pk
    ).update(last_used_at=now)
    return key


def _body(environ: WSGIEnvironment) -> bytes:
    limit = settings.OTLP_MAX_BODY_BYTES
    declared = environ.get("CONTENT_LENGTH") or "0"
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body: bytes = environ["wsgi.input"].read(limit + 1)
    if len(body) > limit:
        raise _too_large(limit)
    try:
        return otlp.decompress(body, environ.get("HTTP_CONTENT_ENCODING", ""), limit)
    except otlp.BodyTooLarge:
        raise _too_large(limit) from None
    except otlp.UnsupportedMedia as error:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error)) from error
    except otlp.MalformedTelemetry as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


def _too_large(limit: int) -> Refused:
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes, as sent or decompressed; send smaller batches",
    )


def _decode(decode: Callable[..., Decoded], body: bytes, content_type: str) -> Decoded:
    try:
        return decode(body, content_type=content_type)
    except otlp.MalformedTelemetry as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


def _take(key: IngestKey, decoded: Decoded) -> ingest.Taken:
    taken = ingest.take(key, decoded)
    if taken.batch_id is not None:
        _ask_for_rollups(key.organization_id)
    return taken


def _ask_for_rollups(organization_id: int) -> None:
    """Ask the workers to add what waits, at most a few times a second: one task adds hundreds of batches."""
    now = time.monotonic()
    if now - _asked_at.get(organization_id, 0.0) < _ASK_EVERY_SECONDS:
        return  # beat's sweep adds it within seconds
    _asked_at[organization_id] = now
    try:
        add_batches.delay(organization_id)
    except BrokerError as error:
        logger.warning("the broker cannot be reached, the sweep will add the batch: %s", error)


def _reasons(taken: ingest.Taken) -> str:
    return "; ".join(f"{refusal.count} × {refusal.reason}" for refusal in taken.refusals)


def _respond(
    start_response: StartResponse, status: HTTPStatus, answer: Message, content_type: str
) -> list[bytes]:
    as_json = content_type == otlp.JSON
    body = (
        json_format.MessageToJson(answer, indent=None).encode()
        if as_json
        else answer.SerializeToString()
    )
    headers = [
        ("Content-Type", otlp.JSON if as_json else otlp.PROTOBUF),
        ("Content-Length", str(len(body))),
    ]
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", str(_RETRY_AFTER_SECONDS)))
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]
