"""What the runtime tells about itself, as a receiver on a real port gets it."""

from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics.export import AggregationTemporality as Temporality
from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from collectors import semconv
from collectors.metrics import decode_metrics
from collectors.observation import Vantage
from collectors.otlp import PROTOBUF, decode_traces
from serving.server.app import build_app
from serving.server.spans import Device
from serving.server.telemetry import PatientSpanExporter, Telemetry, stamp_device_time
from tests.serving.server.fakes import SERVED, FakeEngine
from tests.serving.server.serving_here import Receiver, eventually, running, said

CPU = Device(id="here/cpu-0", type="cpu", hw_type="cpu")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"  # not sampled by the caller


class Told:
    """A server whose telemetry goes to a receiver; told after it was closed."""

    def __init__(self, receiver: Receiver, engine: FakeEngine) -> None:
        self.receiver, self.engine = receiver, engine
        self.telemetry = Telemetry([CPU], lambda: [engine.clock()])

    def ask(self, *asks: Any) -> None:
        """Call each with a client of the server, then close the server and the telemetry."""
        try:
            with (
                running(build_app(SERVED, self.engine, self.telemetry)) as server,
                openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
            ):
                for ask in asks:
                    ask(client)
        finally:
            self.counts = self.telemetry.close()

    @property
    def spans(self) -> list[Span]:
        return self.receiver.spans()


@pytest.fixture
def told(receiver: Receiver, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20key")
    return Told(receiver, engine)


def complete(prompt: Any, **how: Any) -> Any:
    return lambda client: client.completions.create(model="fake-model", prompt=prompt, **how)


def refused(prompt: Any, kind: type[Exception], **how: Any) -> Any:
    def ask(client: openai.OpenAI) -> None:
        with pytest.raises(kind):
            client.completions.create(**{"model": "fake-model", "prompt": prompt, **how})

    return ask


def test_a_call_leaves_a_span_with_what_it_took(told: Told) -> None:
    answers: list[Any] = []
    told.ask(lambda client: answers.append(complete("abc", max_tokens=5, temperature=0.5)(client)))
    (span,) = told.spans
    attributes = said(span.attributes)
    timings = {name: attributes.pop(name) for name in list(attributes) if "_ns" in name}
    assert span.name == "text_completion fake-model"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "costwatch",
        "gen_ai.request.model": "fake-model",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.response.id": answers[0].id,
        "gen_ai.response.model": "fake-model",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": answers[0].usage.prompt_tokens,
        "gen_ai.usage.output_tokens": answers[0].usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "costwatch.device_type": "cpu",
        "costwatch.allocation_method": "measured",
        "costwatch.prefix_repeated_tokens": 0,
        "costwatch.request_repeated": False,
    }
    assert set(timings) == {
        "costwatch.device_ns",
        "costwatch.device_ns_marginal",
        "costwatch.device_ns_alone",
        "costwatch.queue_ns",
        "costwatch.prefill_ns",
        "costwatch.decode_ns",
        "costwatch.time_to_first_token_ns",
        "costwatch.time_per_output_token_ns",
    }
    assert all(isinstance(value, int) and value >= 0 for value in timings.values())
    phases = sum(timings[f"costwatch.{name}_ns"] for name in ("queue", "prefill", "decode"))
    assert phases == span.end_time_unix_nano - span.start_time_unix_nano


def test_spans_device_time_sums_to_the_attributed_counter(told: Told) -> None:
    told.ask(
        *(complete(["a", "abc", "k" * n], max_tokens=20) for n in range(1, 6)),
        complete("Ends.", stream=False),
    )
    attributed = _last(told, semconv.DEVICE_STATE_ATTRIBUTED)
    assert sum(said(span.attributes)[semconv.DEVICE_NS] for span in told.spans) == attributed
    assert attributed > 0


def _last(told: Told, state: str) -> int:
    points = told.receiver.points(semconv.DEVICE_TIME)[-1]
    (value,) = [
        point.as_int for point in points if said(point.attributes)[semconv.DEVICE_STATE] == state
    ]
    return value


def test_the_devices_states_sum_to_the_time_between_their_stamps(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.ask(complete("abc"))
    for points in told.receiver.points(semconv.DEVICE_TIME):
        assert {said(point.attributes)[semconv.DEVICE_STATE] for point in points} == {
            "attributed",
            "unattributed",
            "idle",
        }
        ((start_ns, time_ns),) = {(p.start_time_unix_nano, p.time_unix_nano) for p in points}
        assert sum(point.as_int for point in points) == time_ns - start_ns
        assert start_ns == told.engine.clock().started_unix_ns
        assert {said(p.attributes)[semconv.HW_ID] for p in points} == {"here/cpu-0"}
        assert {said(p.attributes)[semconv.DEVICE_TYPE] for p in points} == {"cpu"}
    assert told.receiver.points(semconv.DEVICE_TIME), "one export at the end at least"


def test_the_device_time_is_a_cumulative_sum_whatever_is_preferred(
    receiver: Receiver, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    Told(receiver, engine).ask(complete("abc"))
    (metric,) = receiver.metrics[-1].resource_metrics[0].scope_metrics[0].metrics
    assert metric.unit == "ns"
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == (
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )


@given(st.lists(st.integers(0, 2**62), min_size=3, max_size=3), st.integers(1, 2**60))
def test_stamping_makes_any_reading_last_as_long_as_its_sum(
    values: list[int], started_unix_ns: int
) -> None:
    points = [NumberDataPoint({"n": n}, 5, 6, value) for n, value in enumerate(values)]
    other = Metric("other", None, "1", Sum(points, Temporality.CUMULATIVE, True))
    ours = Metric(semconv.DEVICE_TIME, None, "ns", Sum(points, Temporality.CUMULATIVE, True))
    scope = ScopeMetrics(InstrumentationScope("s"), [ours, other], "")
    data = MetricsData([ResourceMetrics(Resource({}), [scope], "")])
    stamped = stamp_device_time(data, started_unix_ns).resource_metrics[0].scope_metrics[0].metrics
    for point, value in zip(stamped[0].data.data_points, values, strict=True):
        assert point.value == value
        assert point.start_time_unix_nano == started_unix_ns
        assert point.time_unix_nano - point.start_time_unix_nano == sum(values)
    assert stamped[1] == other


def test_every_call_has_one_span_whatever_became_of_it(told: Told) -> None:
    told.engine.fails_on = "boom"

    def goes_away(client: openai.OpenAI) -> None:
        told.engine.hold()
        refused("abc", openai.APITimeoutError, timeout=0.1)(client)
        eventually(lambda: told.engine.open == 0, "the cancellation")
        told.engine.let_go()

    told.ask(
        complete("Ends."),
        lambda client: list(complete("Ends.", stream=True)(client)),
        refused("boom", openai.InternalServerError),
        refused("unbearable", openai.BadRequestError),
        refused("a", openai.NotFoundError, model="gpt-9"),
        refused("a", openai.BadRequestError, echo=True),
        refused("a" * 500, openai.BadRequestError),
        goes_away,
    )
    errors = [said(span.attributes).get(semconv.ERROR_TYPE) for span in told.spans]
    assert errors == [
        *(None, None),
        "engine_error",
        "request_refused",
        "model_not_found",
        "unsupported_parameter",
        "context_length_exceeded",
        "cancelled",
    ]
    failed = [span.status.code == Status.STATUS_CODE_ERROR for span in told.spans]
    assert failed == [error is not None for error in errors]
    assert (told.counts.recorded, told.counts.sent, told.counts.lost) == (8, 8, 0)


def test_a_refused_call_claims_no_tokens_and_no_device_time(told: Told) -> None:
    told.ask(refused("a", openai.NotFoundError, model="gpt-9"))
    (span,) = told.spans
    assert said(span.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "costwatch",
        "gen_ai.request.model": "gpt-9",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 16,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 1.0,
        "error.type": "model_not_found",
    }
    assert "gpt-9" in span.status.message


def test_the_callers_span_is_the_parent_and_its_baggage_says_who_pays(told: Told) -> None:
    headers = {
        "traceparent": TRACEPARENT,
        "baggage": "costwatch.team=search%20%3B+ads , costwatch.feature=suggest;p=1,secret=x,,=,;",
    }
    told.ask(complete("Ends.", extra_headers=headers), complete("Ends."))
    child, alone = told.spans
    assert child.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert child.parent_span_id.hex() == "b7ad6b7169203331"
    assert said(child.attributes)[semconv.TEAM] == "search ; ads"
    assert said(child.attributes)[semconv.FEATURE] == "suggest"
    assert semconv.CUSTOMER not in said(child.attributes)
    assert "secret" not in said(child.attributes)
    assert alone.parent_span_id == b""
    assert semconv.TEAM not in said(alone.attributes)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "costwatch-runtime"),
        ({"OTEL_SERVICE_NAME": "gpu-7"}, "gpu-7"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=gpu-8,region=eu"}, "gpu-8"),
    ],
)
def test_the_resource_says_which_process_it_was(
    receiver: Receiver,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    Told(receiver, engine).ask(complete("Ends."))
    resources = [said(body.resource_spans[0].resource.attributes) for body in receiver.traces] + [
        said(body.resource_metrics[0].resource.attributes) for body in receiver.metrics
    ]
    assert {resource["service.name"] for resource in resources} == {expected}
    assert len({resource["service.instance.id"] for resource in resources}) == 1
    assert all(resource["host.name"] for resource in resources)


def test_a_receiver_that_restarts_gets_every_span_once_it_is_back(told: Told) -> None:
    # 500 is what the SDK's exporter gives up on at once
    told.receiver.answers = [500, 500]
    told.ask(complete("Ends."), lambda _client: _sent(told))
    assert len(told.spans) == 1
    assert told.counts.lost == 0


def _sent(told: Told) -> None:
    eventually(lambda: told.telemetry.counts().sent == 1, "the span sent at last")


def test_spans_that_nobody_took_are_counted_as_lost(
    engine: FakeEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    receiver.answers = [400] * 100
    told = Told(receiver, engine)
    told.ask(complete("Ends."), complete("Ends."))
    assert (told.counts.recorded, told.counts.sent, told.counts.lost) == (2, 0, 2)


def test_with_the_sdk_switched_off_nothing_is_sent_and_nothing_lost(
    engine: FakeEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    told = Told(receiver, engine)
    told.ask(complete("Ends."))
    assert told.counts.recorded == 0
    assert receiver.traces == []
    assert receiver.metrics == []


class _Never:
    """An exporter that nothing gets through."""

    def export(self, _spans: object) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None: ...


def test_patience_has_an_end() -> None:
    exporter = PatientSpanExporter(_Never(), patience_seconds=0)  # type: ignore[arg-type]
    assert exporter.export([None, None]) is SpanExportResult.FAILURE  # type: ignore[list-item]
    assert exporter.lost == 2


def test_the_product_reads_what_the_runtime_tells(told: Told) -> None:
    answers: list[Any] = []
    headers = {"baggage": "costwatch.team=search"}
    told.ask(lambda client: answers.append(complete("abc", extra_headers=headers)(client)))
    bodies = [body.SerializeToString() for body in told.receiver.traces]
    (seen,) = decode_traces(bodies[0], content_type=PROTOBUF).observations
    span = said(told.spans[0].attributes)
    assert (seen.vantage, seen.provider, seen.tags.team) == (Vantage.SERVER, "costwatch", "search")
    assert (seen.operation, seen.response_id) == ("text_completion", answers[0].id)
    assert (seen.request_model, seen.response_model) == ("fake-model", "fake-model")
    assert (seen.usage.input_tokens, seen.usage.output_tokens) == (3, 16)
    assert (seen.device_type, seen.allocation_method) == ("cpu", "measured")
    assert seen.device_ns == span[semconv.DEVICE_NS]
    assert seen.queue_ns == span[semconv.QUEUE_NS]
    assert (seen.error_type, seen.contradiction, seen.is_wrapper) == ("", "", False)
    metrics = told.receiver.metrics[-1].SerializeToString()
    times = decode_metrics(metrics, content_type=PROTOBUF)
    assert times.refusals == []
    assert {(each.device_id, each.device_type) for each in times.device_times} == {
        ("here/cpu-0", "cpu")
    }
    assert sum(each.value_ns for each in times.device_times) == (
        times.device_times[0].time_unix_ns - times.device_times[0].start_unix_ns
    )
