"""What metrics say: device time, tokens, calls."""

from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from collectors import semconv
from collectors.metrics import decode_metrics
from collectors.observation import DeviceTime
from tests.collectors.bodies import NOON_NS, PROTOBUF, key_values


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
            "of attributed, unattributed, idle",
        ),
    ],
)
def test_device_time_that_cannot_be_added_up_is_refused(body: bytes, says: str) -> None:
    found = decode_metrics(body, content_type=PROTOBUF)
    assert found.device_times == []
    [refusal] = found.refusals
    assert says in refusal.reason
    assert refusal.count == 1
