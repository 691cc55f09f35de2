"""Whose span gets a fingerprint, whoever sends the request, and that nothing of it gets in the way."""

import json
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Tracer

from collectors import semconv
from collectors.fingerprints import Fingerprints
from collectors.transport import call, fingerprinting
from collectors.transport.asked import FINGERPRINTED_BYTES
from collectors.transport.call import begin
from collectors.transport.live import SCOPE, RememberLive

URL = "http://127.0.0.1:8000/v1/chat/completions"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
OURS = Fingerprints(b"k" * 32)
NAMES = {semconv.REQUEST_HASH, semconv.PROMPT_BYTES, semconv.REQUEST_DETERMINISTIC}


def asked(text: str = "hi") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0}


SHORT, LONG = asked(), asked("some words " * 30_000)


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(RememberLive())
    provider.add_span_processor(SimpleSpanProcessor(exported))
    call.use_tracer(provider.get_tracer(SCOPE))
    fingerprinting.use_fingerprints(OURS)
    yield provider.get_tracer("an instrumentation")
    fingerprinting.use_fingerprints(None)
    call.use_tracer(None)


def post(body: object, *statuses: int) -> None:
    """A request in as many attempts as there are answers."""
    for status in statuses or (200,):
        watch = begin("POST", URL, lambda: body)
        assert watch is not None
        watch.answered(status)
        watch.end()


def said(exported: InMemorySpanExporter) -> list[dict[str, Any]]:
    """Of each span that ended, the fingerprint."""
    ours = (*NAMES, semconv.PREFIX_HASHES)
    return [
        {name: value for name, value in (span.attributes or {}).items() if name in ours}
        for span in exported.get_finished_spans()
    ]


@pytest.mark.parametrize("body", [SHORT, LONG], ids=["short", "long"])
def test_an_instrumentations_span_says_what_ours_would(
    tracer: Tracer, exported: InMemorySpanExporter, body: dict[str, Any]
) -> None:
    written = json.dumps(body)
    for form in (body, written, written.encode()):
        with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
            post(form)
        post(form)
    assert said(exported) == [OURS.of(body, "chat")] * 6
    assert said(exported)[0].keys() >= NAMES


def test_a_retry_says_the_same_and_another_request_in_its_place_says_itself(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        post(json.dumps(SHORT), 429, 500, 200)
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        post(json.dumps(LONG), 429)
        post(json.dumps(SHORT), 200)
    assert [each[semconv.REQUEST_HASH] for each in said(exported)] == [
        OURS.of(SHORT, "chat")[semconv.REQUEST_HASH]
    ] * 2


def test_a_span_around_the_call_says_nothing(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    with (
        tracer.start_as_current_span("GET /answers", kind=SpanKind.SERVER),
        tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}),
    ):
        post(json.dumps(SHORT))
    assert said(exported) == [OURS.of(SHORT, "chat"), {}, {}]


def test_a_call_that_is_still_read_does_not_take_the_next_ones_fingerprint(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    stream = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=CHAT)
    post(json.dumps(SHORT))
    post(json.dumps(LONG))
    stream.end()
    assert said(exported) == [OURS.of(LONG, "chat"), OURS.of(SHORT, "chat")]


def test_what_the_application_changes_afterwards_changes_nothing(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    for attributes in (CHAT, {}):
        body = asked()
        with tracer.start_as_current_span("x", kind=SpanKind.CLIENT, attributes=attributes):
            watch = begin("POST", URL, lambda body=body: body)  # type: ignore[misc]
            assert watch is not None
            body["messages"].append({"role": "user", "content": "later"})
            watch.answered(200)
            watch.end()
    assert [each for each in said(exported) if each] == [OURS.of(SHORT, "chat")] * 2


def test_a_request_is_read_while_the_provider_works_and_then_let_go(tracer: Tracer) -> None:
    class Body(str):
        """A text that can be watched."""

    bodies = [Body(json.dumps(SHORT))]
    left = weakref.ref(bodies[0])
    call.use_tracer(tracer, wake=lambda: None)
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT) as span:
        watch = begin("POST", URL, bodies.pop)
        assert left() is not None
        call.drain()
        assert left() is None
        assert watch is not None
        watch.answered(200)
    assert isinstance(span, ReadableSpan)
    assert (span.attributes or {}).items() >= OURS.of(SHORT, "chat").items()


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"\x1f\x8b compressed",
        "[1, 2]",
        b'{"model": "m"',
        b'{"model": "m", "messages": "' + b"x" * FINGERPRINTED_BYTES + b'"}',
        '{"a":' * 100_000,
        iter([b"a", b"stream"]),
        {"model": "m", "messages": [object()]},
        {"model": "m", 7: 1, "messages": []},
    ],
    ids=range(10),
)
def test_a_body_that_cannot_be_read_has_no_fingerprint_and_its_call_stands(
    tracer: Tracer, exported: InMemorySpanExporter, body: object
) -> None:
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        post(body)
    post(body)
    assert said(exported) == [{}, {}]


def test_a_body_that_cannot_be_had_is_no_reason_to_see_a_call_twice(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    def no_body() -> object:
        raise RuntimeError("the secret prompt")

    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        watch = begin("POST", URL, no_body)
        assert watch is not None
        watch.answered(200)
    assert said(exported) == [{}]


def test_what_goes_wrong_is_logged_once_and_quotes_nothing(
    tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        post({"model": "m", "messages": [{"the secret prompt": {"the secret prompt"}}]})
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.getMessage() for each in warnings] == [
        "costwatch has no fingerprint of a request: TypeError"
    ]
    assert "secret" not in caplog.text


def test_nobody_asks_for_fingerprints_and_nobody_gets_them(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    fingerprinting.use_fingerprints(None)
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        post(json.dumps(SHORT))
    post(json.dumps(SHORT))
    assert said(exported) == [{}, {}]
