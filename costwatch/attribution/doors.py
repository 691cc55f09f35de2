"""What happens behind every OTLP door, whether it speaks HTTP or gRPC.

    sender                  whose key it is
    admitted                the key's rates, and room at work
    enter                   traces, metrics, logs: the body is decoded and taken; why single items were refused is the
                            partial success
    refusal                 the answer to what went wrong

What is answered without a Refused is durable in Postgres. The codes are OTLP's (1.x): what can be sent again has a time
after which to do so, everything else is not to be sent again.

    Refused    an answer instead of a result, with its HTTP status and its gRPC code
    ├─ 400 malformed   401 unknown key   404, 405 wrong door   413 too large   415 unknown type
    ├─ 429 the key sends too much, 503 overloaded or without a database: come again
    └─ 500 a defect of ours
"""

from __future__ import annotations

import gc
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus

from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError
from django.utils import timezone
from google.protobuf.message import Message
from kombu.exceptions import OperationalError as BrokerError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from collectors import contents, otlp
from collectors.dialects.sheets import without_sheets
from collectors.metrics import decode_metrics
from collectors.observation import Decoded
from costwatch.accounts.models import IngestKey
from costwatch.attribution import content, ingest
from costwatch.attribution.admission import Full, Rate, Rates, Room
from costwatch.attribution.health import count_outcomes
from costwatch.attribution.tasks import add_batches

logger = logging.getLogger(__name__)

Door = Callable[[IngestKey, bytes, str], Message]

# OpenTelemetry's exporters give up ten seconds after the first try: they are to come back well before that.
_RETRY_SECONDS = 2
_OBJECTS_OF_A_BODY = 50_000
_ROOM_SECONDS = 4.0
_ASK_EVERY_SECONDS = 0.25
_MESSAGE_END = 150  # characters
_USED_EVERY = timedelta(minutes=1)
# google.rpc.Code, which OTLP wants in the body of an error.
_GRPC_CODES = {400: 3, 401: 16, 404: 12, 405: 12, 413: 8, 415: 3, 429: 8, 500: 13, 503: 14}

_asked_at: dict[int, float] = {}
_rates = Rates()
_room = Room(
    at_work=settings.OTLP_AT_WORK,
    waiting=settings.OTLP_WAITING,
    wait_seconds=_ROOM_SECONDS,
)


class Refused(Exception):
    """The request gets this answer instead of a result."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        retry_seconds: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_seconds = retry_seconds  # None: it is not to be sent again
        self.headers = dict(headers or {})

    @property
    def grpc_code(self) -> int:
        return _GRPC_CODES[self.status]


def ready_process() -> None:
    """Make a process that does nothing but take bodies quick at it. Its modules are imported by now."""
    # What was imported stays: the collector need not look at it, nor at every few hundred objects of a body.
    gc.freeze()
    gc.set_threshold(_OBJECTS_OF_A_BODY, 20, 20)
    # Who comes back from Postgres holds its organization's lock: it is not to wait the usual 5 ms for a thread that
    # decodes.
    sys.setswitchinterval(0.0005)


def refusal(error: Exception) -> Refused:
    """What the sender is told of an error; the log is told what the sender need not know."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, OperationalError | InterfaceError | IntegrityError):
        # The sender keeps the body and comes again; nothing of it was written. Who writes the same at the same time
        # as another meets a constraint, and not the second time.
        logger.warning("a body was refused, the database said: %s", error)
        return Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the database cannot take it now; send it again",
            retry_seconds=_RETRY_SECONDS,
        )
    # A defect of ours, or a body that the tables cannot hold: sending it again will not help.
    logger.error("a body was not taken", exc_info=error)
    return Refused(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "this body cannot be taken; the receiver's log says why",
    )


# Who, and how much


def sender(authorization: str) -> IngestKey:
    """The ingest key of a request. Which of unknown, revoked or missing it was, a stranger need not know."""
    scheme, _, secret = authorization.partition(" ")
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
            headers={"WWW-Authenticate": "Bearer"},
        )
    now = timezone.now()
    # Once a minute is enough to know whether a key is still in use, and spares a write per body.
    if key.last_used_at is None or key.last_used_at < now - _USED_EVERY:
        IngestKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return key


def rate_of(key: IngestKey) -> Rate:
    """What a key may send to one process: its own limits, and never more than any key may."""
    return Rate(
        _least(key.requests_per_second, settings.OTLP_KEY_REQUESTS_PER_SECOND),
        _least(key.bytes_per_second, settings.OTLP_KEY_BYTES_PER_SECOND),
    )


def _least(*limits: int | None) -> int | None:
    """None and zero are no limit."""
    return min((limit for limit in limits if limit), default=None)


def max_body_bytes(key: IngestKey) -> int:
    """Of a body of this key, as sent or decompressed."""
    return min(key.max_body_bytes or settings.OTLP_MAX_BODY_BYTES, settings.OTLP_MAX_BODY_BYTES)


def too_large(key: IngestKey) -> Refused:
    """The answer to a body of more than max_body_bytes, once it is admitted: it is counted in ingest health."""
    count_outcomes(key, {"refused: a body that is too large": 1})
    return Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {max_body_bytes(key)} bytes, as sent or decompressed; send smaller batches",
    )


@contextmanager
def admitted(key: IngestKey) -> Iterator[None]:
    """A place at work for a request of this key; raises Refused where it sends too much, or all send too much."""
    wait_seconds = _rates.admit(key.pk, rate_of(key), time.monotonic())
    if wait_seconds:
        raise Refused(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"the ingest key {key.shown_prefix}… sends more than it may; send larger batches less often",
            retry_seconds=math.ceil(wait_seconds),
        )
    try:
        with _room.place():
            # Written when one gets in again: who sends too much is not to cost a write each time.
            if held_up := _rates.pop_held_up(key.pk):
                count_outcomes(key, {"held up: a request over the key's rate": held_up})
            yield
    except Full:
        raise Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many requests wait already; send it again",
            retry_seconds=_RETRY_SECONDS,
        ) from None


def enter(door: Door, key: IngestKey, body: bytes, content_type: str) -> Message:
    """The door's answer to a body as it is without its Content-Encoding. Raises Refused, or what refusal() knows."""
    _rates.owe(key.pk, len(body))
    try:
        return door(key, body, content_type)
    except otlp.MalformedTelemetry as error:
        count_outcomes(key, {"refused: a body that is no OTLP": 1})
        raise Refused(HTTPStatus.BAD_REQUEST, _shortened(str(error))) from error


def _shortened(message: str) -> str:
    """Its beginning and its end, which says what went wrong: a parser names every level on the way there."""
    if len(message) <= 2 * _MESSAGE_END:
        return message
    return f"{message[:_MESSAGE_END].rstrip()} … {message.rstrip('.')[-_MESSAGE_END:].lstrip()}"


# What becomes of a body


def traces(key: IngestKey, body: bytes, content_type: str) -> Message:
    decoded = otlp.decode_traces_in_columns(body, content_type=content_type)
    taken = _take(key, decoded)
    if content.is_chosen(key.organization_id, time.monotonic()):
        found = contents.read(body, content_type=content_type)
        content.keep(key.organization_id, without_sheets(decoded), found)
    response = ExportTraceServiceResponse()
    if taken.refusals:
        response.partial_success.rejected_spans = sum(r.count for r in taken.refusals)
        response.partial_success.error_message = _reasons(taken)
    return response


def metrics(key: IngestKey, body: bytes, content_type: str) -> Message:
    taken = _take(key, decode_metrics(body, content_type=content_type))
    response = ExportMetricsServiceResponse()
    if taken.refusals:
        response.partial_success.rejected_data_points = sum(r.count for r in taken.refusals)
        response.partial_success.error_message = _reasons(taken)
    return response


def logs(key: IngestKey, body: bytes, content_type: str) -> Message:
    """Log records are accepted and dropped: GenAI events repeat the usage of their span, which counts."""
    records = otlp.count_logs(body, content_type=content_type)
    count_outcomes(
        key,
        {
            outcome: items
            for outcome, items in (
                ("dropped: a log record", records.others),
                ("dropped: a log record that repeats its span's usage", records.with_usage),
            )
            if items
        },
    )
    return ExportLogsServiceResponse()


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
