"""Both OTLP doors as processes of their own, with OpenTelemetry's own exporters before them."""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import psycopg
import pytest
from django.db import connection
from django.db.models import Sum
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import rollups
from costwatch.attribution.audit import differences
from costwatch.attribution.models import Entry, IngestHour, Span, UsageHour
from tests.attribution.senders import Sender, exporters
from tests.attribution.servers import Server, grpc_server, http_server
from tests.attribution.test_receive import PROTOBUF, request
from tests.factories import OrganizationFactory

pytestmark = pytest.mark.django_db(transaction=True)

TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"
LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"


@pytest.fixture
def organization(transactional_db: None) -> Organization:
    return OrganizationFactory(name="Acme")


@pytest.fixture
def secret(organization: Organization) -> str:
    _, secret = IngestKey.issue(organization=organization, name="tests")
    return str(secret)


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


@contextmanager
def channel(server: Server, **options: Any) -> Iterator[Callable[..., bytes]]:
    """A function that calls Export with a body and returns the answer's bytes; raises grpc.RpcError."""
    with grpc.insecure_channel(server.address, **options) as line:

        def export(body: bytes, key: str | None, service: str = TRACES) -> bytes:
            said = () if key is None else (("authorization", f"Bearer {key}"),)
            call = line.unary_unary(f"/{service}/Export")
            return bytes(call(body, metadata=said, timeout=60, wait_for_ready=True))

        yield export


def refused(export: Callable[..., bytes], *arguments: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        export(*arguments)
    return raised.value


def retry_seconds(error: Any) -> int | None:
    """What RetryInfo says in the status' details, and in the trailer that Python's exporter reads."""
    trailers = dict(error.trailing_metadata())
    if "grpc-status-details-bin" not in trailers:
        return None
    status, info = Status.FromString(trailers["grpc-status-details-bin"]), RetryInfo()
    assert status.details[0].Unpack(info)
    assert RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"]) == info
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return int(info.retry_delay.seconds)


def in_ledger() -> Counter[str]:
    rows = Entry.objects.values("source__service_name").annotate(calls=Sum("sign"))
    return Counter({row["source__service_name"]: int(row["calls"]) for row in rows})


@pytest.mark.slow
def test_every_exporter_delivers_each_call_once_through_kills_of_both_doors(
    organization: Organization, secret: str
) -> None:
    doors = http_server(), grpc_server()
    stopped = threading.Event()
    with running(*doors):
        senders = {
            name: Sender(name, exporter, stopped)
            for name, exporter in exporters(doors[0].port, doors[1].port, secret).items()
        }
        for sender in senders.values():
            sender.start()
        for _ in range(2):
            time.sleep(1.0)
            for door in doors:
                door.kill()
            time.sleep(0.5)
            for door in doors:
                door.start()
        time.sleep(1.0)
        stopped.set()
        with ThreadPoolExecutor(len(senders)) as pool:
            list(pool.map(Sender.finish, senders.values()))
    sent = Counter({name: sender.sent for name, sender in senders.items()})
    assert min(sent.values()) > 50
    assert in_ledger() == sent
    while rollups.add_batches(organization.pk):
        pass
    assert UsageHour.objects.aggregate(calls=Sum("calls"))["calls"] == sent.total()
    assert list(differences()) == []


def test_grpc_takes_what_is_good_and_says_why_it_refuses_the_rest(secret: str) -> None:
    door = grpc_server(COSTWATCH_OTLP_MAX_BODY_BYTES="100000")
    with running(door), channel(door) as export:
        assert export(request().SerializeToString(), secret) == b""
        with_broken = request(2)
        with_broken.resource_spans[0].scope_spans[0].spans.add(name="no ids")
        answer = ExportTraceServiceResponse.FromString(
            export(with_broken.SerializeToString(), secret)
        )
        assert answer.partial_success.rejected_spans == 1
        assert "trace id" in answer.partial_success.error_message

        for service, response in (
            (TRACES, ExportTraceServiceResponse),
            (METRICS, ExportMetricsServiceResponse),
            (LOGS, ExportLogsServiceResponse),
        ):
            assert response.FromString(export(b"", secret, service)) == response()
        records = ExportLogsServiceRequest()
        records.resource_logs.add().scope_logs.add().log_records.add()
        assert export(records.SerializeToString(), secret, LOGS) == b""

        for body, key, service, code, says in (
            (b"", None, TRACES, "UNAUTHENTICATED", "Authorization: Bearer"),
            (b"", "cwk_unknown", METRICS, "UNAUTHENTICATED", "unknown or revoked"),
            (b"\xff\xff", secret, TRACES, "INVALID_ARGUMENT", "protobuf"),
            (b"\xff\xff", secret, LOGS, "INVALID_ARGUMENT", "protobuf"),
            (b"", secret, "opentelemetry.Other", "UNIMPLEMENTED", "not found"),
            (bytes(200_000), secret, TRACES, "RESOURCE_EXHAUSTED", "larger than max"),
        ):
            error: Any = refused(export, body, key, service)
            assert (error.code().name, retry_seconds(error)) == (code, None)
            assert says.lower() in error.details().lower()
        with channel(door, compression=grpc.Compression.Gzip) as export_gzip:
            assert export_gzip(request(3).SerializeToString(), secret) == b""
            bomb: Any = refused(export_gzip, bytes(50_000_000), secret)
            assert bomb.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert Span.objects.count() == 3
    assert dict(IngestHour.objects.values_list("outcome", "items")) == {
        "observation": 3,
        "refused: span without a trace id (16 bytes, not all zero)": 1,
        "dropped: a log record": 1,
        "refused: a body that is no OTLP": 2,
    }


def test_grpc_tells_a_key_that_sends_too_often_when_to_come_again(secret: str) -> None:
    door = grpc_server(COSTWATCH_OTLP_KEY_REQUESTS_PER_SECOND="1")
    with running(door), channel(door) as export:
        assert [export(b"", secret) for _ in range(2)] == [b"", b""]
        error: Any = refused(export, b"", secret)
    assert (error.code().name, retry_seconds(error)) == ("RESOURCE_EXHAUSTED", 1)


def test_grpc_holds_a_key_to_limits_of_its_own_and_another_not(
    organization: Organization, secret: str
) -> None:
    body = request().SerializeToString()
    _, small = IngestKey.issue(
        organization=organization, name="small", max_body_bytes=len(body) - 1
    )
    _, seldom = IngestKey.issue(organization=organization, name="seldom", requests_per_second=1)
    door = grpc_server()
    with running(door), channel(door) as export:
        error = refused(export, body, small)
        assert (error.code(), retry_seconds(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
        assert f"larger than {len(body) - 1} bytes" in error.details()
        for _ in range(2):
            export(body, seldom)
        assert retry_seconds(refused(export, body, seldom)) == 1
        for _ in range(4):
            export(body, secret)


def test_without_a_database_both_doors_start_and_say_come_again(secret: str) -> None:
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    doors = http_server(**nowhere), grpc_server(**nowhere)
    with running(*doors), channel(doors[1]) as export:
        error: Any = refused(export, b"", secret)
        status, headers = post(doors[0], b"", secret)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert 0 < (retry_seconds(error) or 0) < 10, "an exporter gives up after ten seconds"
    assert (status, headers["Retry-After"]) == (503, str(retry_seconds(error)))


def test_who_sends_too_much_or_with_no_key_of_ours_gets_to_read_why(secret: str) -> None:
    """A client that is still writing when the line breaks would take it for an outage, and come again."""
    door = http_server()
    with running(door):
        assert post(door, bytes(17 << 20), secret)[0] == 413
        assert post(door, bytes(15 << 20), "cwk_unknown")[0] == 401


def test_chunks_that_are_none_are_malformed(secret: str) -> None:
    door = http_server()
    asked = (
        "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
        f"Authorization: Bearer {secret}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"
    )
    with running(door), socket.create_connection(("127.0.0.1", door.port)) as line:
        line.sendall(asked.encode())
        assert line.recv(4096).startswith(b"HTTP/1.1 400 ")


def post(door: Server, body: bytes, secret: str) -> tuple[int, dict[str, str]]:
    line = http.client.HTTPConnection("127.0.0.1", door.port, timeout=60)
    headers = {"Content-Type": PROTOBUF, "Authorization": f"Bearer {secret}"}
    try:
        line.request("POST", "/v1/traces", body, headers)
        answer = line.getresponse()
        answer.read()
        return answer.status, dict(answer.headers)
    finally:
        line.close()


@contextmanager
def nothing_gets_through(organization: Organization) -> Iterator[None]:
    """As if a body of the organization took long."""
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('ingest'), %s)", [organization.pk])
        yield


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_of_two_who_come_to_a_busy_door_one_is_told_to_come_again_at_once(
    organization: Organization, secret: str, protocol: str
) -> None:
    crowded = {"COSTWATCH_OTLP_AT_WORK": "1", "COSTWATCH_OTLP_WAITING": "0"}
    door = http_server(**crowded) if protocol == "http" else grpc_server(**crowded)

    def send(number: int) -> str:
        body = request(number).SerializeToString()
        if protocol == "http":
            status, headers = post(door, body, secret)
            return f"{status} {headers.get('Retry-After', '')}".strip()
        with channel(door) as export:
            try:
                export(body, secret)
                return "OK"
            except grpc.RpcError as error:
                said: Any = error
                return f"{said.code().name} {retry_seconds(said)}"

    with running(door), ThreadPoolExecutor(2) as pool:
        with nothing_gets_through(organization):
            both = [pool.submit(send, number) for number in (1, 2)]
            while not any(one.done() for one in both):
                time.sleep(0.01)
        answers = {one.result() for one in both}
    assert answers == ({"200", "503 2"} if protocol == "http" else {"OK", "UNAVAILABLE 2"})
    assert Span.objects.count() == 1


def test_a_grpc_door_that_is_told_to_stop_finishes_what_it_has_begun(
    organization: Organization, secret: str
) -> None:
    door = grpc_server()
    with running(door), channel(door) as export, ThreadPoolExecutor(1) as pool:
        with nothing_gets_through(organization):
            begun = pool.submit(export, request().SerializeToString(), secret)
            while not _someone_waits():
                time.sleep(0.01)
            assert door.process is not None
            door.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert door.process.poll() is None
        assert begun.result() == b""
        assert door.process.wait(timeout=30) == 0
    assert Entry.objects.count() == 1


def _someone_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return cursor.fetchone() is not None


def test_a_second_grpc_door_on_the_port_says_so_and_ends(secret: str) -> None:
    door = grpc_server()
    with running(door):
        command = [sys.executable, "-m", *door.command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot listen at '{door.address}'" in done.stderr
