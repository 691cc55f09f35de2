"""Beside an instrumentation the transport keeps still; beside nobody, or after the answer, it does not."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Tracer

from collectors.transport import call
from collectors.transport.call import Call, Watch, Watched, begin
from collectors.transport.live import SCOPE, RememberLive

URL = "http://127.0.0.1:8000/v1/chat/completions"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(RememberLive())
    provider.add_span_processor(SimpleSpanProcessor(exported))
    call.use_tracer(provider.get_tracer(SCOPE))
    yield provider.get_tracer("an instrumentation")
    call.use_tracer(None)


def post() -> Watch | None:
    return begin("POST", URL, lambda: {"model": "m"})


def test_a_call_that_is_watched_already_is_left_alone_though_it_is_not_the_current_span(
    tracer: Tracer,
) -> None:
    span = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=CHAT)
    assert type(post()) is Watched
    span.end()
    assert type(post()) is Call


def test_attributes_that_come_after_the_start_count(tracer: Tracer) -> None:
    span = tracer.start_span("chat", kind=SpanKind.CLIENT)
    assert type(post()) is Call
    span.set_attribute("gen_ai.system", "openai")
    assert type(post()) is Watched
    span.end()


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.operation.name": "invoke_agent"},
        {"gen_ai.operation.name": "execute_tool"},
        {"openinference.span.kind": "AGENT"},
        {"openinference.span.kind": "CHAIN", "llm.system": "openai"},
        {"traceloop.span.kind": "workflow"},
        {"http.request.method": "POST"},
        {},
    ],
)
def test_a_span_around_calls_is_no_call(tracer: Tracer, attributes: dict[str, str]) -> None:
    with tracer.start_as_current_span("around", kind=SpanKind.CLIENT, attributes=attributes):
        assert type(post()) is Call


@pytest.mark.parametrize(
    "attributes",
    [CHAT, {"openinference.span.kind": "LLM"}, {"llm.request.type": "chat"}],
)
def test_frameworks_model_spans_are_calls(tracer: Tracer, attributes: dict[str, str]) -> None:
    with tracer.start_as_current_span("model", attributes=attributes):
        assert type(post()) is Watched


def test_a_retry_is_the_same_call_and_what_follows_the_answer_is_another(tracer: Tracer) -> None:
    stream = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=CHAT)
    for status in (429, 500, 200):
        attempt = post()
        assert type(attempt) is Watched
        attempt.answered(status)
    assert type(post()) is Call  # the stream is still being read
    stream.end()


def test_a_span_that_was_forgotten_does_not_hide_what_comes_long_after(tracer: Tracer) -> None:
    an_hour_ago_ns = time.time_ns() - 3600 * 10**9
    span = tracer.start_span("chat", attributes=CHAT, start_time=an_hour_ago_ns)
    assert type(post()) is Call
    span.end()


def test_other_threads_and_tasks_are_not_kept_still(tracer: Tracer) -> None:
    found: list[Watch | None] = []

    async def watched() -> None:
        tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=CHAT)
        await asyncio.sleep(0)
        found.append(post())

    async def plain() -> None:
        await asyncio.sleep(0)
        found.append(post())

    async def both() -> None:
        await asyncio.gather(watched(), plain())

    asyncio.run(both())
    span = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=CHAT)
    thread = threading.Thread(target=lambda: found.append(post()))
    thread.start()
    thread.join()
    span.end()
    assert [type(each) for each in found] == [Watched, Call, Call]


def test_a_redirect_is_no_call_and_an_end_is_an_end(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    redirect = post()
    assert redirect is not None
    redirect.answered(307)
    redirect.end()
    del redirect
    assert exported.get_finished_spans() == ()
    ended = post()
    assert ended is not None
    ended.answered(200)
    for _ in range(2):
        ended.end()
        ended.abandon()
        ended.fail(ValueError())
    [span] = exported.get_finished_spans()
    assert span.status.is_unset


def test_a_response_that_nobody_closes_is_a_call_without_usage(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    left = post()
    assert left is not None
    left.answered(200)
    left.expect("")
    left.chunk(b'data: {"id": "c-1", "usage": {"prompt_tokens": 1}')
    del left
    [span] = exported.get_finished_spans()
    assert not [name for name in span.attributes or {} if "usage" in name]


def test_what_goes_wrong_inside_stays_inside(
    tracer: Tracer, exported: InMemorySpanExporter
) -> None:
    def no_body() -> object:
        raise RuntimeError("a body that cannot be looked at")

    assert begin("POST", URL, no_body) is None
    assert begin("POST", "http://[half/v1/messages", lambda: b"") is None
    broken = post()
    assert broken is not None
    broken.answered(200)
    broken.expect("of-the-future")
    broken.chunk(b"whatever")
    broken.end()
    wrong = post()
    assert wrong is not None
    wrong.answered(200)
    wrong.expect("gzip")
    wrong.chunk(b"this is not gzip")
    wrong.end()
    assert len(exported.get_finished_spans()) == 2
