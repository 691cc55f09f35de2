"""From real clients to what arrives: one request has one hash, whoever sends it and whoever makes its span."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collectors import semconv
from collectors.fingerprints import BOUNDARIES, PREFIX_HASH_CHARACTERS
from tests.collectors.programs import collect, environment, script
from tests.collectors.upstream import Received, providing, receiving

WAYS = [way for way in ("openai", "httpx", "requests", "aiohttp") if find_spec(way)]
FINGERPRINT = (
    semconv.REQUEST_HASH,
    semconv.PREFIX_HASHES,
    semconv.PROMPT_BYTES,
    semconv.REQUEST_DETERMINISTIC,
)


def spans(received: Received) -> list[tuple[str, dict[str, Any]]]:
    """Of each span that arrived, whose it is and what it says of the request."""
    requests = [
        ExportTraceServiceRequest.FromString(body)
        for path, _, body in received.bodies
        if path == "/v1/traces"
    ]
    return [
        (scope.scope.name, _fingerprint(span))
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _fingerprint(span: Any) -> dict[str, Any]:
    values = {each.key: each.value for each in span.attributes}
    return {
        name: getattr(values[name], values[name].WhichOneof("value"))
        for name in FINGERPRINT
        if name in values
    }


def ask(outbox: Path, *ways: str, **variables: str) -> list[tuple[str, dict[str, Any]]]:
    with providing() as (provider, _), receiving() as (receiver, received):
        environ = environment(
            outbox,
            PROVIDER_URL=provider,
            COSTWATCH_ENDPOINT=receiver,
            COSTWATCH_INSTRUMENTATIONS="installed",  # theirs have them, too
            **variables,
        )
        ran = collect(*script("same_request.py"), *ways, environ=environ)
        assert ran.returncode == 0, ran.stderr
        assert "fingerprint" not in ran.stderr
        assert received.bodies
        assert not [body for _, _, body in received.bodies if b"secret" in body or b"Paris" in body]
        return spans(received)


def test_one_request_by_any_client_has_one_fingerprint(tmp_path: Path) -> None:
    found = ask(tmp_path, *WAYS)
    assert len(found) == len(WAYS)
    scopes = {scope for scope, _ in found}
    assert "collectors.transport" in scopes
    assert len(scopes) == 2  # and the instrumentation's
    said = found[0][1]
    assert [each for _, each in found] == [said] * len(WAYS)
    assert said.keys() == set(FINGERPRINT)
    assert said[semconv.REQUEST_DETERMINISTIC] is True
    reached = [place for place in BOUNDARIES if place <= said[semconv.PROMPT_BYTES]]
    assert len(said[semconv.PREFIX_HASHES]) == PREFIX_HASH_CHARACTERS * len(reached) > 0


@pytest.mark.parametrize("way", ["anthropic", "embeddings"])
def test_other_protocols_have_one_fingerprint_too(tmp_path: Path, way: str) -> None:
    (theirs, one), (ours, other) = ask(tmp_path, way, f"{way}-httpx")
    assert theirs != ours == "collectors.transport"
    assert one == other
    assert (semconv.PREFIX_HASHES in one) == (way == "anthropic")


def test_the_key_decides_who_compares(tmp_path: Path) -> None:
    def hash_of(**variables: str) -> str:
        [(_, said)] = ask(tmp_path, "httpx", **variables)
        return str(said[semconv.REQUEST_HASH])

    one, other = {"COSTWATCH_KEY": "cw_1"}, {"COSTWATCH_KEY": "cw_2"}
    organization = {"COSTWATCH_FINGERPRINT_KEY": "a long random text"}
    assert hash_of(**one) != hash_of(**other)
    assert hash_of(**one, **organization) == hash_of(**other, **organization)


def test_where_the_key_stands_changes_nothing(tmp_path: Path) -> None:
    ours = ask(tmp_path, "httpx", COSTWATCH_KEY="cw_1")
    theirs = ask(
        tmp_path,
        "httpx",
        COSTWATCH_KEY="",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20cw_1",
    )
    assert ours == theirs
    assert ours[0][1]


def test_switched_off_there_are_none(tmp_path: Path) -> None:
    found = ask(tmp_path, "openai", "httpx", COSTWATCH_FINGERPRINTS="off")
    assert [said for _, said in found] == [{}, {}]
