"""The OTLP door for HTTP: POST /v1/traces, /v1/metrics and /v1/logs, protobuf or JSON, compressed or not.

A WSGI application of its own, stateless; run as many as are needed. What it answers with 200 is durable in Postgres;
doors.py says what is answered otherwise. Every answer is in the request's own content type.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

import django
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "costwatch.settings")
django.setup()

from django.conf import settings  # noqa: E402  models need the setup above
from django.core.signals import request_finished, request_started  # noqa: E402

from collectors import otlp  # noqa: E402
from costwatch.attribution import doors  # noqa: E402
from costwatch.attribution.doors import Door, Refused  # noqa: E402

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_PIECE_BYTES = 64 * 1024

doors.ready_process()

_DOORS: dict[str, Door] = {
    "/v1/traces": doors.traces,
    "/v1/metrics": doors.metrics,
    "/v1/logs": doors.logs,
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    content_type = environ.get("CONTENT_TYPE", "").split(";")[0].strip().lower()
    # Django's own housekeeping of the thread's connection hangs on these two signals.
    request_started.send(sender=application, environ=environ)
    try:
        answer = _answer(environ, content_type)
        return _respond(start_response, HTTPStatus.OK, answer, content_type, {})
    except Exception as error:
        refused = doors.refusal(error)
        _discard_rest(environ)
        status = Status(code=refused.grpc_code, message=str(refused))
        headers = _headers(refused)
        return _respond(start_response, refused.status, status, content_type, headers)
    finally:
        request_finished.send(sender=application)


def _answer(environ: WSGIEnvironment, content_type: str) -> Message:
    door = _door(environ)
    if content_type not in {otlp.PROTOBUF, otlp.JSON}:
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"content type {content_type!r}: expected {otlp.PROTOBUF} or {otlp.JSON}",
        )
    key = doors.sender(environ.get("HTTP_AUTHORIZATION", ""))
    limit = doors.max_body_bytes(key)
    # Read before a place is taken: a slow line keeps nobody else from work.
    sent = _sent(environ, limit)
    with doors.admitted(key):
        try:
            body = _decompressed(sent, environ.get("HTTP_CONTENT_ENCODING", ""), limit)
        except otlp.BodyTooLarge:
            raise doors.too_large(key) from None
        return doors.enter(door, key, body, content_type)


def _door(environ: WSGIEnvironment) -> Door:
    path = environ.get("PATH_INFO", "").rstrip("/")
    if path not in _DOORS:
        raise Refused(HTTPStatus.NOT_FOUND, f"no door at {path!r}; there are {', '.join(_DOORS)}")
    if environ["REQUEST_METHOD"] != "POST":
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{environ['REQUEST_METHOD']} {path}: expected POST",
            headers={"Allow": "POST"},
        )
    return _DOORS[path]


def _sent(environ: WSGIEnvironment, limit: int) -> bytes | None:
    """The body as it was sent; None where it is larger than that."""
    said = environ.get("CONTENT_LENGTH") or ""
    declared = int(said) if said.isdigit() else None  # none where the body comes in chunks
    if declared is not None and declared > limit:
        return None
    sent = _read(environ, limit + 1)
    if len(sent) > limit:
        return None
    if declared is not None and len(sent) < declared:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"the body ended after {len(sent)} of {declared} bytes"
        )
    return sent


def _read(environ: WSGIEnvironment, most_bytes: int) -> bytes:
    try:
        read: bytes = environ["wsgi.input"].read(most_bytes)
    except (
        Exception
    ) as error:  # each server has its own for chunks that are none and lines that break
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {error}") from error
    return read


def _discard_rest(environ: WSGIEnvironment) -> None:
    """Let the sender finish, within bounds: many look for the answer only then, and an early end breaks their line."""
    left = 2 * settings.OTLP_MAX_BODY_BYTES
    with suppress(Refused):
        while left > 0 and (read := _read(environ, min(left, _PIECE_BYTES))):
            left -= len(read)


def _decompressed(sent: bytes | None, encoding: str, limit: int) -> bytes:
    """Raises BodyTooLarge, also for what was too large as it was sent; and Refused."""
    if sent is None:
        raise otlp.BodyTooLarge
    try:
        return otlp.decompress(sent, encoding, limit)
    except otlp.UnsupportedMedia as error:
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            str(error),
            headers={"Accept-Encoding": ", ".join(otlp.ENCODINGS)},
        ) from error
    except otlp.MalformedTelemetry as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error


def _headers(refused: Refused) -> dict[str, str]:
    if refused.retry_seconds is None:
        return refused.headers
    return {**refused.headers, "Retry-After": str(refused.retry_seconds)}


def _respond(
    start_response: StartResponse,
    status: HTTPStatus,
    answer: Message,
    content_type: str,
    headers: dict[str, str],
) -> list[bytes]:
    as_json = content_type == otlp.JSON
    body = (
        json_format.MessageToJson(answer, indent=None).encode()
        if as_json
        else answer.SerializeToString()
    )
    whole = {
        "Content-Type": otlp.JSON if as_json else otlp.PROTOBUF,
        "Content-Length": str(len(body)),
        **headers,
    }
    start_response(f"{status.value} {status.phrase}", list(whole.items()))
    return [body]
