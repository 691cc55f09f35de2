"""The OTLP door, asked as senders ask it."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from backports import zstd
from django.core.signals import request_finished, request_started
from django.db import OperationalError, close_old_connections, connection
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution.models import Entry, IngestHour, SourceTeam, Span
from costwatch.attribution.receive import application
from tests.factories import NOON, TeamFactory, unix_ns

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """A test's transaction lives on one connection, which the end of a request must not close."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def secret(organization: Organization) -> str:
    _, secret = IngestKey.issue(organization=organization, name="tests")
    return str(secret)


@pytest.fixture
def post(secret: str) -> Callable[..., Answer]:
    def post(
        body: bytes,
        *,
        path: str = "/v1/traces",
        content_type: str = PROTOBUF,
        method: str = "POST",
        key: str | None = secret,
        encoding: str = "",
        declared: str | None = None,
    ) -> Answer:
        said: list[Any] = []
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(body)) if declared is None else declared,
            "HTTP_CONTENT_ENCODING": encoding,
            "wsgi.input": io.BytesIO(body),
        }
        if key is not None:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        answer = b"".join(application(environ, lambda *args: said.extend(args)))
        return Answer(int(said[0].split()[0]), dict(said[1]), answer)

    return post


def request(number: int = 1, **attributes: str | int) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    span = (
        message.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            trace_id=number.to_bytes(16),
            span_id=number.to_bytes(8),
            name="chat gpt-4o",
            kind=3,
            start_time_unix_nano=unix_ns(NOON),
            end_time_unix_nano=unix_ns(NOON) + 10**9,
        )
    )
    said: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 4,
        "costwatch.team": "search",
        **attributes,
    }
    for name, value in said.items():
        pair = span.attributes.add(key=name)
        if isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = value
    return message


def test_what_is_acknowledged_is_in_the_ledger(post: Callable[..., Answer]) -> None:
    answer = post(request().SerializeToString())
    assert (answer.status, answer.body) == (200, b"")
    entry = Entry.objects.get()
    assert (entry.input_tokens, entry.output_tokens, entry.source.team_tag) == (12, 4, "search")


def test_gzip_and_zstd_and_json_say_the_same_as_protobuf(post: Callable[..., Answer]) -> None:
    body = request().SerializeToString()
    as_json = {
        "resourceSpans": [
            {
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": (2).to_bytes(16).hex(),
                                "spanId": (2).to_bytes(8).hex(),
                                "name": "chat",
                                "kind": 3,
                                "startTimeUnixNano": str(unix_ns(NOON)),
                                "endTimeUnixNano": str(unix_ns(NOON) + 10**9),
                                "attributes": [
                                    {"key": "gen_ai.system", "value": {"stringValue": "openai"}},
                                    {
                                        "key": "gen_ai.request.model",
                                        "value": {"stringValue": "gpt-4o"},
                                    },
                                    {
                                        "key": "gen_ai.usage.input_tokens",
                                        "value": {"intValue": "12"},
                                    },
                                    {
                                        "key": "gen_ai.usage.output_tokens",
                                        "value": {"intValue": "4"},
                                    },
                                ],
                            }
                        ]
                    }
                ]
            }
        ]
    }
    assert post(gzip.compress(body), encoding="gzip").status == 200
    assert post(zstd.compress(request(3).SerializeToString()), encoding="zstd").status == 200
    answer = post(json.dumps(as_json).encode(), content_type=JSON)
    assert (answer.status, json.loads(answer.body)) == (200, {})
    assert sorted(Entry.objects.values_list("input_tokens", "output_tokens")) == [(12, 4)] * 3


def test_an_empty_request_is_fine(post: Callable[..., Answer]) -> None:
    assert post(b"").status == 200
    assert post(b"{}", content_type=JSON).status == 200
    assert post(b"", path="/v1/metrics").status == 200
    assert post(b"", path="/v1/logs").status == 200


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"body": b"\xff\xff\xff"}, 400, "protobuf"),
        ({"body": b"{", "content_type": JSON}, 400, "JSON"),
        ({"body": b"[1]", "content_type": JSON}, 400, "expected an object"),
        ({"body": b"not gzip", "encoding": "gzip"}, 400, "gzip"),
        ({"body": b"not zstd", "encoding": "zstd"}, 400, "zstd"),
        ({"body": b"\xff", "path": "/v1/logs"}, 400, "protobuf"),
        ({"body": b"half", "declared": "8"}, 400, "ended after 4 of 8 bytes"),
        ({"encoding": "br"}, 415, "'br'"),
        ({"content_type": "text/plain"}, 415, "'text/plain'"),
        ({"key": None}, 401, "Authorization: Bearer"),
        ({"key": "cwk_unknown"}, 401, "unknown or revoked"),
        ({"path": "/v1/else"}, 404, "/v1/traces"),
        ({"method": "GET"}, 405, "expected POST"),
    ],
)
def test_what_is_malformed_gets_its_status_and_a_reason(
    post: Callable[..., Answer], changed: dict[str, Any], status: int, says: str
) -> None:
    answer = post(**{"body": b"", **changed})
    assert answer.status == status
    if changed.get("content_type") == JSON:
        message = json.loads(answer.body)["message"]
    else:
        message = Status.FromString(answer.body).message
    assert says in message


def test_the_reason_for_refusing_deep_nesting_can_be_read(post: Callable[..., Answer]) -> None:
    deep = '{"arrayValue": {"values": [' * 150 + '{"stringValue": "x"}' + "]}}" * 150
    sent = (
        '{"resourceSpans": [{"resource": {"attributes": [{"key": "deep", "value": '
        + deep
        + "}]}}]}"
    )
    answer = post(sent.encode(), content_type=JSON)
    message = json.loads(answer.body)["message"]
    assert answer.status == 400
    assert "no OTLP/JSON" in message
    assert message.endswith("Max recursion depth is 100")
    assert len(message) < 400
    assert Span.objects.count() == 0


def test_a_refusal_says_in_its_headers_what_would_be_taken(post: Callable[..., Answer]) -> None:
    assert post(b"", method="PUT").headers["Allow"] == "POST"
    assert post(b"", encoding="br").headers["Accept-Encoding"] == "gzip, deflate, zstd"
    assert post(b"", key=None).headers["WWW-Authenticate"] == "Bearer"


def test_a_body_in_chunks_has_no_length_and_is_taken(post: Callable[..., Answer]) -> None:
    assert post(request().SerializeToString(), declared="").status == 200
    assert Entry.objects.count() == 1


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_a_bomb_is_not_inflated(
    post: Callable[..., Answer], settings: Any, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    settings.OTLP_MAX_BODY_BYTES = 100_000
    bomb = pack(bytes(50_000_000))
    assert len(bomb) < 100_000
    answer = post(bomb, encoding=encoding)
    assert answer.status == 413
    assert "100000 bytes" in Status.FromString(answer.body).message


def test_a_body_over_the_limit_is_refused(post: Callable[..., Answer], settings: Any) -> None:
    settings.OTLP_MAX_BODY_BYTES = 10
    assert post(request().SerializeToString()).status == 413


def test_a_key_that_sends_too_often_is_told_when_to_come_again(
    post: Callable[..., Answer], settings: Any
) -> None:
    settings.OTLP_KEY_REQUESTS_PER_SECOND = 1
    answers = [post(b"") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"] == "1"
    refused = Status.FromString(answers[-1].body)
    assert (refused.code, "larger batches" in refused.message) == (8, True)
    settings.OTLP_KEY_REQUESTS_PER_SECOND = 0
    assert [post(b"").status for _ in range(2)] == [200, 200]
    assert dict(IngestHour.objects.values_list("outcome", "items")) == {
        "held up: a request over the key's rate": 2
    }


def test_a_key_that_sends_too_many_bytes_waits_until_they_are_paid_off(
    post: Callable[..., Answer], settings: Any, organization: Organization
) -> None:
    settings.OTLP_KEY_BYTES_PER_SECOND = 1000
    packed = gzip.compress(request(padding="x" * 10_000).SerializeToString())
    assert post(packed, encoding="gzip").status == 200, "the first is taken, however large"
    answer = post(packed, encoding="gzip")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "9")
    _, other = IngestKey.issue(organization=organization, name="another")
    assert post(packed, encoding="gzip", key=other).status == 200


def key_of(organization: Organization, **fields: Any) -> str:
    _, secret = IngestKey.issue(organization=organization, name="another", **fields)
    return str(secret)


def test_a_key_with_limits_of_its_own_is_held_to_them_and_another_is_not(
    post: Callable[..., Answer], organization: Organization
) -> None:
    body = request().SerializeToString()
    seldom = key_of(organization, requests_per_second=1)
    small = key_of(organization, max_body_bytes=len(body) - 1)
    slow = key_of(organization, bytes_per_second=10)
    assert [post(body, key=seldom).status for _ in range(3)] == [200, 200, 429]
    assert [post(body, key=slow).status for _ in range(2)] == [200, 429]
    refused = post(body, key=small)
    assert refused.status == 413
    assert f"larger than {len(body) - 1} bytes" in Status.FromString(refused.body).message
    assert "Retry-After" not in refused.headers
    packed = gzip.compress(request(padding="x" * 1000).SerializeToString())
    assert post(packed, key=small, encoding="gzip").status == 413
    assert post(b"", key=small).status == 200
    assert [post(body).status for _ in range(5)] == [200] * 5
    counted = IngestHour.objects.filter(outcome="refused: a body that is too large")
    assert [row.items for row in counted] == [2]


def test_no_key_may_send_more_than_the_receiver_takes(
    post: Callable[..., Answer], organization: Organization, settings: Any
) -> None:
    settings.OTLP_MAX_BODY_BYTES = 10
    settings.OTLP_KEY_REQUESTS_PER_SECOND = 1
    key = key_of(organization, max_body_bytes=10**9, requests_per_second=10**6)
    assert post(request().SerializeToString(), key=key).status == 413
    assert [post(b"", key=key).status for _ in range(2)] == [200, 429]


def test_a_limit_holds_from_the_next_request_on_whatever_was_sent_before(
    post: Callable[..., Answer], organization: Organization, settings: Any
) -> None:
    settings.OTLP_KEY_REQUESTS_PER_SECOND = settings.OTLP_KEY_BYTES_PER_SECOND = 0
    body = request().SerializeToString()
    assert [post(body).status for _ in range(20)] == [200] * 20
    IngestKey.objects.update(requests_per_second=1, bytes_per_second=1)
    assert [post(body).status for _ in range(2)] == [200, 429]
    IngestKey.objects.update(requests_per_second=None, bytes_per_second=None)
    assert post(body).status == 200


def test_what_names_no_environment_and_no_team_gets_those_of_its_key(
    post: Callable[..., Answer], organization: Organization
) -> None:
    team = TeamFactory(organization=organization, name="Search")
    key = key_of(organization, team=team, environment="staging")
    silent, naming = request(1, **{"costwatch.team": ""}), request(2)
    naming.resource_spans[0].resource.attributes.add(
        key="deployment.environment.name"
    ).value.string_value = "production"
    for one in (silent, naming):
        assert post(one.SerializeToString(), key=key).status == 200
    paid = SourceTeam.objects.select_related("source", "team").order_by("source")
    assert [(one.source.environment, one.team, one.reason) for one in paid] == [
        ("staging", team, "key's team"),
        ("production", team, "team tag"),
    ]


def test_log_records_are_taken_and_dropped_and_counted_by_key(post: Callable[..., Answer]) -> None:
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    records.add().body.string_value = "hello"
    event = records.add(event_name="gen_ai.client.inference.operation.details")
    event.attributes.add(key="gen_ai.usage.input_tokens").value.int_value = 12
    answer = post(message.SerializeToString(), path="/v1/logs")
    assert (answer.status, answer.body) == (200, b"")
    assert dict(IngestHour.objects.values_list("outcome", "items")) == {
        "dropped: a log record": 1,
        "dropped: a log record that repeats its span's usage": 1,
    }
    assert not Entry.objects.exists()


def test_a_body_that_is_no_otlp_is_counted_by_key(post: Callable[..., Answer]) -> None:
    post(b"\xff\xff")
    post(b"{", content_type=JSON, path="/v1/metrics")
    assert dict(IngestHour.objects.values_list("outcome", "items")) == {
        "refused: a body that is no OTLP": 2
    }


def test_a_revoked_key_is_refused(post: Callable[..., Answer]) -> None:
    IngestKey.objects.update(revoked_at=NOON)
    assert post(request().SerializeToString()).status == 401


def test_a_broken_span_is_counted_in_the_partial_success(post: Callable[..., Answer]) -> None:
    message = request()
    message.resource_spans[0].scope_spans[0].spans.add(name="no ids", start_time_unix_nano=1)
    answer = post(message.SerializeToString())
    assert answer.status == 200
    success = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert success.rejected_spans == 1
    assert "trace id" in success.error_message
    assert Entry.objects.count() == 1, "the good span of the same body is kept"


def test_without_the_database_the_sender_is_told_to_come_again(
    post: Callable[..., Answer],
) -> None:
    def down(*_: Any) -> Any:
        raise OperationalError("the server closed the connection")

    body = request().SerializeToString()
    with connection.execute_wrapper(down):
        answer = post(body)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("table", ["attribution_span", "attribution_entry"])
def test_a_full_disk_tells_the_sender_to_come_again(
    post: Callable[..., Answer], table: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION is_full() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        cursor.execute(
            f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION is_full()"
        )
    answer = post(request().SerializeToString())
    assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)


def test_a_null_byte_in_an_attribute_does_not_lose_the_call(post: Callable[..., Answer]) -> None:
    answer = post(
        request(**{"costwatch.feature": "se\x00arch", "user.id": "\x00"}).SerializeToString()
    )
    assert answer.status == 200
    assert Entry.objects.count() == 1


def test_who_waits_too_long_behind_others_is_told_to_come_again(
    post: Callable[..., Answer], organization: Organization, settings: Any
) -> None:
    settings.OTLP_WAIT_SECONDS = 1
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('ingest'), %s)", [organization.pk])
        assert post(request().SerializeToString()).status == 503


def test_half_a_character_in_an_attribute_does_not_lose_the_body(
    post: Callable[..., Answer],
) -> None:
    span = {
        "traceId": (3).to_bytes(16).hex(),
        "spanId": (3).to_bytes(8).hex(),
        "startTimeUnixNano": str(unix_ns(NOON)),
        "endTimeUnixNano": str(unix_ns(NOON)),
        "attributes": [
            {"key": "gen_ai.system", "value": {"stringValue": "openai"}},
            {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o"}},
            {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
            {"key": "costwatch.feature", "value": {"stringValue": "cut \ud83d"}},
        ],
    }
    sent = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    assert post(sent.encode(), content_type=JSON).status == 200
    assert Entry.objects.get().source.feature == "cut ?"


@pytest.mark.parametrize("value", ["NaN", "Infinity", -1.0, 1e300])
def test_a_device_time_that_is_no_number_is_refused_alone(
    post: Callable[..., Answer], value: float | str
) -> None:
    point = {
        "startTimeUnixNano": str(unix_ns(NOON)),
        "timeUnixNano": str(unix_ns(NOON) + 10**9),
        "asDouble": value,
        "attributes": [{"key": "costwatch.device.state", "value": {"stringValue": "idle"}}],
    }
    metric = {
        "name": "costwatch.device.time",
        "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [point]},
    }
    sent = json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]})
    answer = post(sent.encode(), path="/v1/metrics", content_type=JSON)
    assert answer.status == 200
    assert json.loads(answer.body)["partialSuccess"]["rejectedDataPoints"] == "1"
