"""What a call becomes: the same span whether or not it went by way of OpenTelemetry, and what an open one gets late."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    use_span,
)

from collectors import semconv
from collectors.batches import KeepSpans
from collectors.context import TagSpans, attribute
from collectors.fingerprints import Fingerprints
from collectors.outbox import Outbox, remove
from collectors.sender import Sender
from collectors.transport import call, fingerprinting
from collectors.transport.call import begin
from collectors.transport.held import MOST_BYTES, Held
from collectors.transport.live import SCOPE, RememberLive

URL = "http://127.0.0.1:8000/v1/chat/completions?key=x"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
OURS = Fingerprints(b"k" * 32)
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


class Another(SpanProcessor):
    """An application's own."""


@dataclass
class Application:
    """A provider as configure() leaves it, and what is on disk of its spans."""

    provider: TracerProvider
    keep: KeepSpans
    outbox: Outbox

    def watch(self) -> None:
        tracer = self.provider.get_tracer(SCOPE)
        call.use_tracer(tracer, wake=self.keep.wake, keep=self.keep)

    def kept(self) -> ExportTraceServiceRequest:
        """What is new. Its thread does not read calls, so that tests see when they are read."""
        call.drain()
        self.keep.force_flush()
        found = ExportTraceServiceRequest()
        for body in self.outbox.waiting():
            found.MergeFromString(gzip.decompress(body.path.read_bytes()))
            remove(body)
        return found

    def spans(self) -> list[Span]:
        return [
            span
            for of_resource in self.kept().resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]


Make = Callable[..., Application]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    def application(*others: SpanProcessor, sampler: Sampler = ALWAYS_ON) -> Application:
        outbox = Outbox(tmp_path_factory.mktemp("outbox"))
        outbox.pause_until(time.time() + 3600)  # nothing is sent
        keep = KeepSpans(Sender(outbox, {}, {}))
        provider = TracerProvider(
            resource=Resource({"service.name": "a"}), sampler=sampler, shutdown_on_exit=False
        )
        for each in (TagSpans({"costwatch.team": "default"}), keep, RememberLive(), *others):
            provider.add_span_processor(each)
        return Application(provider, keep, outbox)

    fingerprinting.use_fingerprints(OURS)
    yield application
    fingerprinting.use_fingerprints(None)
    call.use_tracer(None)


@pytest.fixture(scope="module")
def alone(make: Make) -> Application:
    return make()


@pytest.fixture(scope="module")
def observed(make: Make) -> Application:
    return make(Another())


def post(body: object = ASKED, answer: object = None, status: int = 200) -> None:
    watch = begin("POST", URL, lambda: body)
    assert watch is not None
    watch.answered(status)
    watch.expect("")
    watch.chunk(json.dumps(answer).encode())
    watch.end()


def without_ids(request: ExportTraceServiceRequest) -> list[Any]:
    """All that is the same when it is made a second time."""
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                span.ClearField("span_id")
                span.ClearField("start_time_unix_nano")
                span.ClearField("end_time_unix_nano")
                if not span.parent_span_id:
                    span.ClearField("trace_id")
                said = {each.key: each.value for each in span.attributes}
                said.pop(semconv.RESPONSE_TIME_TO_FIRST_CHUNK, None)
                span.ClearField("attributes")
                for name in sorted(said):
                    span.attributes.add(key=name, value=said[name])
    return list(request.resource_spans)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXTS,
        "model": TEXTS,
        "service_tier": TEXTS,
        "usage": st.fixed_dictionaries(
            {"prompt_tokens": st.integers(0, 2**40)}, optional={"completion_tokens": st.just(3)}
        ),
    },
)
REQUESTS = st.fixed_dictionaries(
    {"model": TEXTS}, optional={"stream": st.booleans(), "messages": st.lists(TEXTS)}
)
PARENTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(0), TraceFlags(1)]),
    st.sampled_from([TraceState(), TraceState([("a", "b")])]),
)


@given(REQUESTS, ANSWERS, st.sampled_from([200, 400, 529]), st.none() | PARENTS, st.none() | TEXTS)
def test_a_span_is_the_same_whether_or_not_somebody_else_sees_it(
    alone: Application,
    observed: Application,
    asked: dict[str, Any],
    answer: dict[str, Any],
    status: int,
    parent: SpanContext | None,
    feature: str | None,
) -> None:
    found = []
    for application in (alone, observed):
        application.watch()
        around = NonRecordingSpan(parent) if parent else NonRecordingSpan(SpanContext(0, 0, False))
        with use_span(around), attribute(feature=feature):
            post(json.dumps(asked).encode(), answer, status)
        found.append(without_ids(application.kept()))
    assert found[0] == found[1]
    assert len(found[0]) == 1


def test_a_call_is_the_child_of_the_span_around_it_and_others_share_no_trace(
    alone: Application,
) -> None:
    alone.watch()
    with alone.provider.get_tracer("app").start_as_current_span("job") as job:
        post()
    for _ in range(2):
        post()
    around, inner, *others = sorted(alone.spans(), key=lambda span: span.kind)
    assert inner.kind == 3  # CLIENT
    assert inner.trace_id == around.trace_id == job.get_span_context().trace_id.to_bytes(16, "big")
    assert inner.parent_span_id == around.span_id
    assert len({span.trace_id for span in (inner, *others)}) == 3
    assert [span.parent_span_id for span in others] == [b"", b""]


def test_an_applications_processor_sees_our_spans_from_when_it_is_there(make: Make) -> None:
    class Tags(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            span.set_attribute("of", "the application")

    application = make()
    application.watch()
    post()
    call.drain()
    application.provider.add_span_processor(Tags())
    post()
    said = [{each.key for each in span.attributes} for span in application.spans()]
    assert ["of" in each for each in said] == [False, True]


def test_a_sampler_leaves_our_spans_out_like_others(make: Make) -> None:
    application = make(sampler=ALWAYS_OFF)
    application.watch()
    post()
    assert application.spans() == []


@pytest.mark.parametrize("others", [(), (Another(),)], ids=["alone", "observed"])
def test_who_flushes_does_not_pay_for_what_waits(
    make: Make, others: tuple[SpanProcessor, ...]
) -> None:
    application = make(*others)
    application.watch()
    post()
    with attribute(feature="of whoever flushes"):
        [span] = application.spans()
    assert semconv.FEATURE not in {each.key for each in span.attributes}


@pytest.mark.parametrize("unusual", [{}, {"odd": (1, 2)}], ids=["plain", "unusual"])
def test_an_instrumentations_span_gets_its_fingerprint_though_it_has_ended(
    alone: Application, unusual: dict[str, Any]
) -> None:
    alone.watch()
    tracer = alone.provider.get_tracer("an instrumentation")
    attributes = CHAT | unusual
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=attributes):
        post(json.dumps(ASKED).encode())
    [span] = alone.spans()
    said = {each.key: each.value for each in span.attributes}
    expected = OURS.of(ASKED, "chat")
    assert said[semconv.REQUEST_HASH].string_value == expected[semconv.REQUEST_HASH]
    assert said.keys() == attributes.keys() | expected.keys() | {"costwatch.team"}


def test_a_span_that_is_left_out_takes_its_fingerprint_with_it(make: Make) -> None:
    application = make()
    application.watch()
    tracer = application.provider.get_tracer("an instrumentation")
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        post(json.dumps(ASKED).encode(), status=500)
        post(json.dumps(ASKED | {"seed": 1}).encode())
    [span] = application.spans()
    [said] = [each.value.string_value for each in span.attributes if each.key == semconv.REQUEST_HASH]  # fmt: skip
    assert said == OURS.of(ASKED | {"seed": 1}, "chat")[semconv.REQUEST_HASH]


def test_what_waits_is_bounded_and_what_finds_no_room_is_read_at_once(make: Make) -> None:
    application = make()
    tracer = application.provider.get_tracer(SCOPE)
    call.use_tracer(tracer, wake=lambda: None, keep=application.keep)
    size_bytes = 3 * 1024 * 1024
    long = ASKED | {"messages": [{"role": "user", "content": "x" * size_bytes}]}
    try:
        for _ in range(2 * MOST_BYTES // size_bytes):
            post(json.dumps(long).encode())
        assert len(call._over) <= MOST_BYTES // size_bytes
    finally:
        found = application.spans()
    assert len(found) == 2 * MOST_BYTES // size_bytes


@given(st.lists(st.integers(0, MOST_BYTES), max_size=20))
def test_what_is_let_go_makes_room_again(sizes_bytes: list[int]) -> None:
    held = Held()
    taken = [size for size in sizes_bytes if held.take(size)]
    assert sum(taken) <= MOST_BYTES
    for size in taken:
        held.let_go(size)
    assert held.take(MOST_BYTES)
    assert not held.take(1)
