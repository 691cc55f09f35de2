"""What metrics say: device time, tokens, calls."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    NumberDataPoint,
)

from collectors import semconv
from collectors.metrics import decode_metrics
from collectors.observation import DeviceTime, Meter, TokenPoint, Vantage
from tests.collectors.bodies import NOON_NS, PROTOBUF, key_values
from tests.collectors.corpus_metrics import WITH_METRICS, metrics_of
from tests.collectors.test_corpus import expected


def device_time_body(*, temporality: int = 2, unit: str = "ns", **fields: Any) -> bytes:
    point = NumberDataPoint(
        start_time_unix_nano=NOON_NS, time_unix_nano=NOON_NS + 10**9, as_int=600_000_000
    )
    point.attributes.extend(
        key_values({semconv.DEVICE_STATE: "idle", semconv.HW_ID: "gpu-0", semconv.HW_TYPE: "gpu"})
    )
    point.MergeFrom(NumberDataPoint(**fields))
    body = ExportMetricsServiceRequest()
    resource_metrics = body.resource_metrics.add()
    resource_metrics.resource.attributes.extend(
        key_values({semconv.SERVICE_NAME: "runtime", semconv.SERVICE_INSTANCE_ID: "r-1"})
    )
    metric = resource_metrics.scope_metrics.add().metrics.add(name=semconv.DEVICE_TIME, unit=unit)
    metric.sum.aggregation_temporality = temporality  # type: ignore[assignment]
    metric.sum.data_points.append(point)
    other = resource_metrics.scope_metrics[0].metrics.add(name="gen_ai.client.operation.duration")
    other.histogram.data_points.add(count=1)
    return body.SerializeToString()


def test_a_devices_time_is_read_and_other_metrics_are_only_counted() -> None:
    found = decode_metrics(device_time_body(), content_type=PROTOBUF)
    assert found.device_times == [
        DeviceTime(
            service_name="runtime",
            instance_id="r-1",
            device_id="gpu-0",
            device_type="gpu",
            state="idle",
            start_unix_ns=NOON_NS,
            time_unix_ns=NOON_NS + 10**9,
            value_ns=600_000_000,
        )
    ]
    assert (found.items, found.refusals) == (2, [])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (device_time_body(temporality=1), "no cumulative sum"),
        (device_time_body(unit="s"), "in a unit other than ns"),
        (device_time_body(as_int=-1), "below zero"),
        (device_time_body(time_unix_nano=1), "a start after its time"),
        (
            device_time_body(attributes=key_values({semconv.DEVICE_STATE: "bored"})),
            "of attributed, unattributed, busy, idle",
        ),
    ],
)
def test_device_time_that_cannot_be_added_up_is_refused(body: bytes, says: str) -> None:
    found = decode_metrics(body, content_type=PROTOBUF)
    assert found.device_times == []
    [refusal] = found.refusals
    assert says in refusal.reason
    assert refusal.count == 1


# Tokens and calls

START_NS, TIME_NS = NOON_NS, NOON_NS + 60 * 10**9


def metric_body(
    name: str,
    point: NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint,
    *,
    said: Mapping[str, Any] | None = None,
    resource: Mapping[str, Any] | None = None,
    temporality: int = 2,
    is_monotonic: bool = True,
) -> bytes:
    """A body with one point of one metric, of a minute after noon."""
    point.start_time_unix_nano = point.start_time_unix_nano or START_NS
    point.time_unix_nano = point.time_unix_nano or TIME_NS
    point.attributes.extend(key_values(said or {}))
    body = ExportMetricsServiceRequest()
    resource_metrics = body.resource_metrics.add()
    resource_metrics.resource.attributes.extend(
        key_values(resource or {"service.name": "shop", "service.instance.id": "shop-1"})
    )
    scope_metrics = resource_metrics.scope_metrics.add()
    scope_metrics.scope.name = "some.scope"
    metric = scope_metrics.metrics.add(name=name)
    if isinstance(point, NumberDataPoint):
        data: Any = metric.sum
        data.is_monotonic = is_monotonic
    elif isinstance(point, HistogramDataPoint):
        data = metric.histogram
    else:
        data = metric.exponential_histogram
    data.aggregation_temporality = temporality
    data.data_points.append(point)
    return body.SerializeToString()


def token_points(body: bytes) -> list[TokenPoint]:
    decoded = decode_metrics(body, content_type=PROTOBUF)
    assert decoded.refusals == []
    return decoded.token_points


CLIENT = {"gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o"}
USAGE = "gen_ai.client.token.usage"


@pytest.mark.parametrize(
    ("name", "said", "meter", "calls"),
    [
        (USAGE, {"gen_ai.token.type": "input"}, Meter.INPUT, 4),
        (USAGE, {"gen_ai.token.type": "output"}, Meter.OUTPUT, 0),
        (USAGE, {"gen_ai.token.type": "completion"}, Meter.OUTPUT, 0),
        (USAGE, {"gen_ai.token.type": "cache_read"}, Meter.CACHE_READ, 0),
        ("tgi_request_input_length", {}, Meter.INPUT, 4),
        ("tgi_request_generated_tokens", {}, Meter.OUTPUT, 0),
    ],
)
@pytest.mark.parametrize("kind", [HistogramDataPoint, ExponentialHistogramDataPoint])
def test_a_histogram_counts_tokens_and_on_one_row_calls(
    name: str,
    said: Mapping[str, Any],
    meter: Meter,
    calls: int,
    kind: type[HistogramDataPoint | ExponentialHistogramDataPoint],
) -> None:
    [point] = token_points(metric_body(name, kind(count=4, sum=1200.0), said=said))
    assert (point.meter, point.tokens, point.calls) == (meter, 1200, calls)
    assert (point.start_unix_ns, point.time_unix_ns) == (START_NS, TIME_NS)


@pytest.mark.parametrize(
    ("name", "meter", "vantage", "provider"),
    [
        ("vllm:prompt_tokens_total", Meter.INPUT, Vantage.SERVER, "vllm"),
        ("vllm:prompt_tokens", Meter.INPUT, Vantage.SERVER, "vllm"),
        ("vllm_generation_tokens_total", Meter.OUTPUT, Vantage.SERVER, "vllm"),
        ("vllm.generation_tokens", Meter.OUTPUT, Vantage.SERVER, "vllm"),
        ("vllm:prompt_tokens_cached_total", Meter.CACHE_READ, Vantage.SERVER, "vllm"),
        ("sglang:prompt_tokens_total", Meter.INPUT, Vantage.SERVER, "sglang"),
        ("sglang:generation_tokens_total", Meter.OUTPUT, Vantage.SERVER, "sglang"),
        ("sglang:cached_tokens_total", Meter.CACHE_READ, Vantage.SERVER, "sglang"),
        ("litellm_input_tokens_metric_total", Meter.INPUT, Vantage.GATEWAY, ""),
        ("gen_ai.client.inference.usage.input_tokens", Meter.INPUT, Vantage.CLIENT, ""),
        (
            "gen_ai.client.inference.usage.reasoning.output_tokens",
            Meter.REASONING,
            Vantage.CLIENT,
            "",
        ),
        ("gen_ai.usage.output_tokens", Meter.OUTPUT, Vantage.CLIENT, ""),
    ],
)
def test_a_counter_counts_tokens(name: str, meter: Meter, vantage: Vantage, provider: str) -> None:
    body = metric_body(name, NumberDataPoint(as_double=1200.0), said={"model_name": "meta/small"})
    [point] = token_points(body)
    assert (point.meter, point.tokens, point.calls) == (meter, 1200, 0)
    assert (point.vantage, point.provider) == (vantage, provider)
    assert point.request_model == "meta/small"


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("vllm:request_success_total", NumberDataPoint(as_double=4.0)),
        ("sglang:num_requests_total", NumberDataPoint(as_int=4)),
        ("gen_ai.total.requests", NumberDataPoint(as_int=4)),
        (
            "gen_ai.client.inference.operation.input_tokens",
            HistogramDataPoint(count=4, sum=1200.0),
        ),
    ],
)
def test_what_counts_calls_counts_no_tokens(
    name: str, point: NumberDataPoint | HistogramDataPoint
) -> None:
    [found] = token_points(metric_body(name, point))
    assert (found.meter, found.tokens, found.calls) == (Meter.CALLS, 0, 4)


def test_a_point_says_who_and_what_as_a_span_does() -> None:
    said = {
        **CLIENT,
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.token.type": "input",
        "openai.response.service_tier": "flex",
        "costwatch.team": "search",
    }
    resource = {
        "service.name": "shop",
        "deployment.environment": "prod",
        "service.instance.id": "shop-1",
        "team": "web",
    }
    body = metric_body(USAGE, HistogramDataPoint(count=1, sum=9), said=said, resource=resource)
    [point] = token_points(body)
    assert (point.service_name, point.environment, point.instance_id) == ("shop", "prod", "shop-1")
    assert (point.provider, point.request_model) == ("openai", "gpt-4o")
    assert (point.response_model, point.service_tier) == ("gpt-4o-2024-08-06", "flex")
    assert (point.tags.team, point.resource_tags.team) == ("search", "web")
    assert (point.scope, point.vantage) == ("some.scope", Vantage.CLIENT)


def test_litellms_proxy_is_a_gateway_and_names_the_team_of_its_key() -> None:
    said = {
        **CLIENT,
        "gen_ai.token.type": "input",
        "metadata.user_api_key_hash": "e38304",
        "metadata.user_api_key_team_alias": "payments",
    }
    [point] = token_points(metric_body(USAGE, HistogramDataPoint(count=1, sum=9), said=said))
    assert (point.vantage, point.tags.team) == (Vantage.GATEWAY, "payments")


def test_a_series_is_told_by_all_its_attributes_in_any_order() -> None:
    def series(said: Mapping[str, Any]) -> bytes:
        [point] = token_points(
            metric_body("vllm:prompt_tokens", NumberDataPoint(as_int=1), said=said)
        )
        return point.series

    assert series({"a": "1", "b": "2"}) == series({"b": "2", "a": "1"})
    assert series({"a": "1", "b": "2"}) != series({"a": "1", "b": "3"})


@pytest.mark.parametrize(
    "body",
    [
        metric_body(USAGE, HistogramDataPoint(count=1, sum=9)),  # of no token type
        metric_body(USAGE, HistogramDataPoint(count=1, sum=9), said={"gen_ai.token.type": "total"}),
        metric_body("vllm:prompt_tokens", NumberDataPoint(as_int=9), is_monotonic=False),
        metric_body("vllm:prompt_tokens", NumberDataPoint(flags=1)),  # Prometheus' stale marker
        metric_body(
            "gen_ai.usage.input_tokens",
            NumberDataPoint(as_int=9),
            said={"gen_ai.operation.name": "invoke_agent"},
        ),
    ],
)
def test_what_is_no_count_of_tokens_or_repeats_one_is_passed_over(body: bytes) -> None:
    assert token_points(body) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (metric_body("vllm:prompt_tokens", NumberDataPoint(as_int=9), temporality=0), "neither"),
        (metric_body("vllm:prompt_tokens", NumberDataPoint(as_int=-9)), "below zero"),
        (metric_body("vllm:prompt_tokens", NumberDataPoint(as_double=float("nan"))), "no number"),
        (metric_body("vllm:prompt_tokens", NumberDataPoint(time_unix_nano=1)), "a start after"),
        (
            metric_body(
                "vllm:prompt_tokens",
                NumberDataPoint(as_int=9, time_unix_nano=START_NS + 25 * 3600 * 10**9),
                temporality=1,
            ),
            "more than a day",
        ),
    ],
)
def test_a_token_metric_that_cannot_be_right_is_refused(body: bytes, says: str) -> None:
    found = decode_metrics(body, content_type=PROTOBUF)
    assert found.token_points == []
    [refusal] = found.refusals
    assert says in refusal.reason
    assert refusal.count == 1


@pytest.mark.parametrize("case", WITH_METRICS, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_what_real_instrumentations_counted_is_read(case: Path) -> None:
    """The last reading of each cumulative series, all of delta series."""
    said = metrics_of(case)
    latest = {
        (point.series, point.start_unix_ns, None if point.is_cumulative else point.time_unix_ns): (
            point
        )
        for point in sorted(said, key=lambda point: point.time_unix_ns)
    }
    totals: Counter[tuple[str, str]] = Counter()
    for point in latest.values():
        totals[point.scope, point.meter.value] += point.tokens
    assert totals == {
        (right["scope"], right["token_type"]): right["right_total"]
        for right in expected(case)["metrics_tokens"]
    }
