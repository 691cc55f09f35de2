"""A reading as OpenTelemetry's metrics, in the names of its hardware conventions.

Made here and not by the SDK's instruments: those keep every set of attributes that they ever saw, and processes come
and go for months.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from collectors import semconv
from collectors.devices.busy import BusyTime
from collectors.devices.gpu import THROTTLE_REASONS
from collectors.devices.samples import DeviceSample, Gap, ProcessSample, Reading

_SCOPE = InstrumentationScope("collectors.devices")

Attributes = Mapping[str, str | int]
Values = Iterable[tuple[float, Attributes]]


class _Kind(Enum):
    GAUGE = auto()
    COUNTER = auto()  # only grows
    LEVEL = auto()  # may be added up over devices: OpenTelemetry's UpDownCounter


@dataclass(frozen=True, slots=True)
class _Instrument:
    name: str
    unit: str
    kind: _Kind
    values: Callable[[DeviceSample], Values]


def encode(
    reading: Reading,
    resource: Resource,
    started_unix_ns: int,
    time_unix_ns: int,
    busy_times: Iterable[BusyTime] = (),
) -> MetricsData:
    """One point for each value that was read at `time_unix_ns`; nothing for what was not.

    started_unix_ns   when this process began to count. The devices' counters began before: only differences mean something.
    """
    made = [
        *(_of_devices(each, reading, started_unix_ns, time_unix_ns) for each in _INSTRUMENTS),
        _of_gaps(reading, started_unix_ns, time_unix_ns),
        _of_time(busy_times),
    ]
    metrics = [metric for metric in made if metric.data.data_points]
    scopes = [ScopeMetrics(_SCOPE, metrics, "")] if metrics else []
    return MetricsData([ResourceMetrics(resource, scopes, "")])


def _of_devices(instrument: _Instrument, reading: Reading, started_ns: int, time_ns: int) -> Metric:
    points = [
        NumberDataPoint({**_identity(sample), **attributes}, started_ns, time_ns, value)
        for sample in reading.samples
        for value, attributes in instrument.values(sample)
    ]
    return _metric(instrument.name, instrument.unit, instrument.kind, points)


def _of_gaps(reading: Reading, started_ns: int, time_ns: int) -> Metric:
    points = [NumberDataPoint(_missing(gap), started_ns, time_ns, 1) for gap in reading.gaps]
    return _metric(semconv.DEVICE_NOT_SAMPLED, "1", _Kind.LEVEL, points)


def _of_time(busy_times: Iterable[BusyTime]) -> Metric:
    points = [
        NumberDataPoint(
            {**_identity(each.sample), semconv.DEVICE_STATE: state},
            each.started_unix_ns,
            each.seen_unix_ns,
            ns,
        )
        for each in busy_times
        if each.seen_unix_ns > each.started_unix_ns
        for state, ns in (
            (semconv.DEVICE_STATE_BUSY, each.busy_ns),
            (semconv.DEVICE_STATE_IDLE, each.idle_ns),
        )
    ]
    return _metric(semconv.DEVICE_TIME, "ns", _Kind.COUNTER, points)


def _metric(name: str, unit: str, kind: _Kind, points: list[NumberDataPoint]) -> Metric:
    if kind is _Kind.GAUGE:
        return Metric(name, None, unit, Gauge(points))
    is_counter = kind is _Kind.COUNTER
    return Metric(name, None, unit, Sum(points, AggregationTemporality.CUMULATIVE, is_counter))


def _identity(sample: DeviceSample) -> dict[str, str]:
    said = {semconv.HW_NAME: sample.name, semconv.HW_PARENT: sample.parent_id}
    return {
        semconv.HW_ID: sample.device_id,
        semconv.HW_TYPE: sample.device_type,
        **{name: value for name, value in said.items() if value},
    }


def _missing(gap: Gap) -> dict[str, str]:
    identity = {semconv.HW_ID: gap.device_id} if gap.device_id else {}
    return {
        **identity,
        semconv.HW_TYPE: gap.device_type,
        semconv.DEVICE_COUNTER: gap.counter,
        semconv.ERROR_TYPE: gap.reason,
    }


# What an instrument reads of a sample.


def _one(field: str, attributes: Attributes | None = None) -> Callable[[DeviceSample], Values]:
    def values(sample: DeviceSample) -> Values:
        value = getattr(sample, field)
        return [] if value is None else [(value, attributes or {})]

    return values


def _each(field: str, attribute: str) -> Callable[[DeviceSample], Values]:
    def values(sample: DeviceSample) -> Values:
        return [(value, {attribute: name}) for name, value in getattr(sample, field).items()]

    return values


def _states(sample: DeviceSample) -> Values:
    yield int(not sample.is_lost), {semconv.HW_STATE: "ok"}
    yield int(sample.is_lost), {semconv.HW_STATE: "failed"}


def _throttled(sample: DeviceSample) -> Values:
    if sample.throttle_reasons is not None:
        for reason in THROTTLE_REASONS:
            holds = reason in sample.throttle_reasons
            yield int(holds), {semconv.GPU_THROTTLE_REASON: reason}


def _of_processes(field: str) -> Callable[[DeviceSample], Values]:
    def values(sample: DeviceSample) -> Values:
        for process in sample.processes or ():
            value = getattr(process, field)
            if value is not None:
                yield value, _owner(process)

    return values


def _owner(process: ProcessSample) -> Attributes:
    said = {
        semconv.PROCESS_PID: process.pid,
        semconv.PROCESS_EXECUTABLE_NAME: process.name,
        semconv.CONTAINER_ID: process.container_id,
        semconv.K8S_POD_UID: process.pod_uid,
    }
    return {name: value for name, value in said.items() if value is not None}


_GAUGE, _COUNTER, _LEVEL = _Kind.GAUGE, _Kind.COUNTER, _Kind.LEVEL
_INSTRUMENTS = (
    _Instrument(semconv.HW_STATUS, "1", _LEVEL, _states),
    _Instrument(
        semconv.HW_GPU_UTILIZATION,
        "1",
        _GAUGE,
        _one("utilization", {semconv.HW_GPU_TASK: "general"}),
    ),
    _Instrument(
        semconv.GPU_MEMORY_CONTROLLER_UTILIZATION,
        "1",
        _GAUGE,
        _one("memory_controller_utilization"),
    ),
    _Instrument(semconv.HW_GPU_MEMORY_USAGE, "By", _LEVEL, _one("memory_used_bytes")),
    _Instrument(semconv.HW_GPU_MEMORY_LIMIT, "By", _LEVEL, _one("memory_total_bytes")),
    _Instrument(semconv.HW_POWER, "W", _GAUGE, _one("power_watts")),
    _Instrument(semconv.GPU_POWER_LIMIT, "W", _GAUGE, _one("power_limit_watts")),
    _Instrument(semconv.HW_ENERGY, "J", _COUNTER, _one("energy_joules")),
    _Instrument(semconv.GPU_CLOCK, "Hz", _GAUGE, _each("clocks_hz", semconv.GPU_CLOCK_DOMAIN)),
    _Instrument(
        semconv.GPU_CLOCK_LIMIT,
        "Hz",
        _GAUGE,
        _each("clock_limits_hz", semconv.GPU_CLOCK_DOMAIN),
    ),
    _Instrument(
        semconv.HW_TEMPERATURE,
        "Cel",
        _GAUGE,
        _each("temperatures_celsius", semconv.HW_SENSOR_LOCATION),
    ),
    _Instrument(semconv.GPU_THROTTLED, "1", _GAUGE, _throttled),
    _Instrument(
        semconv.GPU_THROTTLED_TIME,
        "s",
        _COUNTER,
        _each("throttled_seconds", semconv.GPU_THROTTLE_REASON),
    ),
    _Instrument(semconv.HW_ERRORS, "{error}", _COUNTER, _each("errors", semconv.ERROR_TYPE)),
    _Instrument(semconv.GPU_PROCESS_MEMORY_USAGE, "By", _LEVEL, _of_processes("memory_used_bytes")),
    _Instrument(semconv.GPU_PROCESS_UTILIZATION, "1", _GAUGE, _of_processes("utilization")),
    _Instrument(semconv.HW_CPU_BUSY_TIME, "s", _COUNTER, _each("cpu_seconds", semconv.CPU_STATE)),
)
