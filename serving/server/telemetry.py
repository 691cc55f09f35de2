"""What the runtime tells about itself, over OTLP/HTTP; where to, the standard OTEL_* variables say.

    Telemetry              one span per call when it is over; the devices' time by state every few seconds
    PatientSpanExporter    sends a batch again until the receiver has it
    DeviceTimeExporter     gives the devices' time the engine's own beginning and end

Every call is recorded, whatever the caller's sampling flag says: a bill is no sample.
"""

import logging
import os
import platform
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_METRIC_EXPORT_INTERVAL,
)
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    Sum,
)
from opentelemetry.sdk.resources import HOST_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from collectors import semconv
from serving.engine.request import DeviceClock
from serving.server.spans import CallRecord, Device, attributes_of, caller_of

_SCOPE = "serving.server"
_DEFAULT_SERVICE_NAME = "costwatch-runtime"
_SPAN_QUEUE = (
    65_536  # ten minutes without a receiver at 100 calls/s; the SDK's 2,048 is twenty seconds
)
_SPAN_DELAY_MS = 1_000
_METRIC_INTERVAL_MS = 5_000
_PATIENCE_SECONDS = 600.0
_LONGEST_WAIT_SECONDS = 15.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """Spans made, taken by the receiver, and given up. What is in none of the last two is on its way."""

    recorded: int
    sent: int
    lost: int


class PatientSpanExporter(SpanExporter):
    """Sends a batch again until it is taken; gives it up after patience_seconds, or after hurry() and one more try.

    The SDK's exporter alone gives up after ten seconds, less than a receiver needs to restart. The receiver counts
    a span that it gets twice once.
    """

    def __init__(self, exporter: SpanExporter, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._exporter, self._patience_seconds = exporter, patience_seconds
        self._hurry = threading.Event()
        self.sent = 0
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        deadline = time.monotonic() + self._patience_seconds
        wait_seconds = 1.0
        while self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            if self._hurry.is_set() or time.monotonic() > deadline:
                return self._give_up(len(spans))
            self._hurry.wait(wait_seconds)
            wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)
        self.sent += len(spans)
        return SpanExportResult.SUCCESS

    def _give_up(self, count: int) -> SpanExportResult:
        self.lost += count
        _log.error("%d spans were not taken by the receiver and are lost", count)
        return SpanExportResult.FAILURE

    def hurry(self) -> None:
        self._hurry.set()

    def shutdown(self) -> None:
        self._hurry.set()
        self._exporter.shutdown()


class DeviceTimeExporter(OTLPMetricExporter):
    """Gives each point of the device's time the engine's beginning, and as its time beginning + wall time.

    The SDK stamps when it first and last looked; a reader that compares the sum over the states with the time
    between the two stamps would find milliseconds missing.
    """

    def __init__(self, started_unix_ns: int) -> None:
        # a difference between two looks is what the receiver works out; it needs the totals
        super().__init__(
            preferred_temporality={ObservableCounter: AggregationTemporality.CUMULATIVE}
        )
        self._started_unix_ns = started_unix_ns

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        return super().export(
            stamp_device_time(metrics_data, self._started_unix_ns), timeout_millis, **kwargs
        )


def stamp_device_time(data: MetricsData, started_unix_ns: int) -> MetricsData:
    """The same data, where the device's points begin at started_unix_ns and last as long as their sum."""
    return replace(
        data,
        resource_metrics=[
            replace(
                resource,
                scope_metrics=[
                    replace(
                        scope, metrics=[_stamped(each, started_unix_ns) for each in scope.metrics]
                    )
                    for scope in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ],
    )


def _stamped(metric: Metric, started_unix_ns: int) -> Metric:
    if metric.name != semconv.DEVICE_TIME or not isinstance(metric.data, Sum):
        return metric
    wall_ns: Counter[AttributeValue | None] = Counter()
    for point in metric.data.data_points:
        wall_ns[_device_of(point)] += int(point.value)
    points = [
        replace(
            point,
            start_time_unix_nano=started_unix_ns,
            time_unix_nano=started_unix_ns + wall_ns[_device_of(point)],
        )
        for point in metric.data.data_points
    ]
    return replace(metric, data=replace(metric.data, data_points=points))


def _device_of(point: Any) -> AttributeValue | None:
    return (point.attributes or {}).get(semconv.HW_ID)


class Telemetry:
    """Sends spans and the devices' time until it is closed. Make it when the engine has started.

    devices   all of one type; each has its time of clocks, which is read once per export, so that all states of one
              export are of one instant.
    """

    def __init__(
        self, devices: Sequence[Device], clocks: Callable[[], Sequence[DeviceClock]]
    ) -> None:
        self._devices, self._clocks = devices, clocks
        self._recorded = 0
        resource = _resource()
        self._meters = _meter_provider(resource, clocks()[0].started_unix_ns)
        self._meters.get_meter(_SCOPE).create_observable_counter(
            semconv.DEVICE_TIME, [self._observe], unit="ns", description="Device time by state"
        )
        self._exporter = PatientSpanExporter(OTLPSpanExporter(meter_provider=self._meters))
        self._tracers = _tracer_provider(resource, self._exporter, self._meters)
        self._tracer = self._tracers.get_tracer(_SCOPE)

    def record(self, call: CallRecord) -> None:
        """Make the span of a call that is over."""
        parent, who_pays = caller_of(call.headers)
        span = self._tracer.start_span(
            call.name,
            context=parent,
            kind=SpanKind.SERVER,
            attributes={**who_pays, **attributes_of(call, self._devices[0])},
            start_time=call.arrived_unix_ns,
        )
        self._recorded += span.is_recording()  # False where OTEL_SDK_DISABLED is set
        if call.error_type:
            span.set_status(Status(StatusCode.ERROR, call.error_message))
        span.end(end_time=call.arrived_unix_ns + call.duration_ns)

    def counts(self) -> Counts:
        return Counts(self._recorded, self._exporter.sent, self._exporter.lost)

    def close(self) -> Counts:
        """Send what is left, within about 30 s, then count: whatever was not taken by then is lost."""
        self._exporter.hurry()
        self._tracers.shutdown()
        self._meters.shutdown()
        sent = self._exporter.sent
        counts = Counts(self._recorded, sent, self._recorded - sent)
        if counts.lost:
            _log.error("%d of %d spans were never sent", counts.lost, counts.recorded)
        return counts

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        for device, clock in zip(self._devices, self._clocks(), strict=True):
            yield from _observations(device, clock)


def _observations(device: Device, clock: DeviceClock) -> Iterator[Observation]:
    by_state = {
        semconv.DEVICE_STATE_ATTRIBUTED: clock.attributed_ns,
        semconv.DEVICE_STATE_UNATTRIBUTED: clock.unattributed_ns,
        semconv.DEVICE_STATE_IDLE: clock.idle_ns,
    }
    for state, value_ns in by_state.items():
        yield Observation(
            value_ns,
            {
                semconv.DEVICE_STATE: state,
                semconv.HW_ID: device.id,
                semconv.HW_TYPE: device.hw_type,
                semconv.DEVICE_TYPE: device.type,
            },
        )


def _resource() -> Resource:
    """Ours where the environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) says nothing."""
    said = Resource.create()
    ours: dict[str, AttributeValue] = {
        semconv.SERVICE_NAME: _DEFAULT_SERVICE_NAME,
        semconv.SERVICE_INSTANCE_ID: str(uuid.uuid4()),
        HOST_NAME: platform.node(),
    }
    is_named = not str(said.attributes[semconv.SERVICE_NAME]).startswith("unknown_service")
    unsaid = {
        name: value
        for name, value in ours.items()
        if name not in said.attributes or (name == semconv.SERVICE_NAME and not is_named)
    }
    return said.merge(Resource(unsaid))


def _meter_provider(resource: Resource, started_unix_ns: int) -> MeterProvider:
    reader = PeriodicExportingMetricReader(
        DeviceTimeExporter(started_unix_ns),
        export_interval_millis=_default(OTEL_METRIC_EXPORT_INTERVAL, _METRIC_INTERVAL_MS),
    )
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _tracer_provider(
    resource: Resource, exporter: SpanExporter, meters: MeterProvider
) -> TracerProvider:
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, meter_provider=meters)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=_default(OTEL_BSP_MAX_QUEUE_SIZE, _SPAN_QUEUE),
            schedule_delay_millis=_default(OTEL_BSP_SCHEDULE_DELAY, _SPAN_DELAY_MS),
            meter_provider=meters,
        )
    )
    return provider


def _default(name: str, value: int) -> int | None:
    """Ours where the variable is not set; None lets the SDK read it."""
    return None if os.environ.get(name) else value


__all__ = ["Counts", "DeviceTimeExporter", "PatientSpanExporter", "Telemetry", "stamp_device_time"]
