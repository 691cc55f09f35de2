"""OTLP metrics in bytes → points: device time, and what metrics say about tokens and calls."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    DataPointFlags,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from collectors import semconv
from collectors.dialects import otel_genai
from collectors.dialects.attributes import Found, read_resource, read_span
from collectors.dialects.tags import own_tags
from collectors.dialects.token_metrics import (
    METERS,
    MODEL_NAMES,
    TEAM_NAMES,
    TOKEN_TYPE_NAMES,
    TokenMetric,
    token_metric,
)
from collectors.dialects.values import MAX_NATURAL, clean, plain
from collectors.observation import Decoded, DeviceTime, Meter, Tags, TokenPoint, Vantage
from collectors.otlp import MAX_UNIX_NS, parse, refusals

_DEVICE_STATES = (
    semconv.DEVICE_STATE_ATTRIBUTED,
    semconv.DEVICE_STATE_UNATTRIBUTED,
    semconv.DEVICE_STATE_BUSY,
    semconv.DEVICE_STATE_IDLE,
)
_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
_NOTHING_RECORDED = DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK
_MAX_DELTA_NS = 24 * 3600 * 10**9
# Says of a point of LiteLLM's that its proxy sends it, not its SDK in an application.
_OF_THE_PROXY = "metadata.user_api_key_hash"
_OFFERING = ("provider", "request_model", "response_model", "service_tier")

_Point = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint
_Said = Mapping[str, Any]


class _Refused(Exception):
    """Why a point cannot be taken."""


def decode_metrics(body: bytes, *, content_type: str) -> Decoded:
    """What a body of /v1/metrics says: how long each device was in which state, and how many tokens and calls were
    counted. Other metrics are only counted.

    Raises MalformedTelemetry and UnsupportedMedia.
    """
    decoded, refused = Decoded(), Counter[str]()
    for resource_metrics in parse(ExportMetricsServiceRequest, body, content_type).resource_metrics:
        resource = _resource(resource_metrics.resource)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                decoded.items += _points_of(metric)
                if metric.name == semconv.DEVICE_TIME:
                    _take_device_time(metric, resource.said, decoded.device_times, refused)
                elif counts := token_metric(metric.name):
                    series = _Series(metric, counts, resource, scope_metrics.scope)
                    series.take(decoded.token_points, refused)
    decoded.refusals = refusals(refused)
    return decoded


def _points_of(metric: Metric) -> int:
    which = metric.WhichOneof("data")
    return len(getattr(metric, which).data_points) if which else 0


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in attributes}


def _said(said: _Said, *names: str) -> str:
    """The first of these attributes that is there, as text."""
    return next((clean(str(said[name])) or "" for name in names if said.get(name) is not None), "")


# Device time


def _take_device_time(
    metric: Metric, resource: _Said, device_times: list[DeviceTime], refused: Counter[str]
) -> None:
    if metric.WhichOneof("data") != "sum" or metric.sum.aggregation_temporality != _CUMULATIVE:
        refused[f"{semconv.DEVICE_TIME} that is no cumulative sum"] += _points_of(metric)
        return
    if metric.unit not in ("", "ns"):
        refused[f"{semconv.DEVICE_TIME} in a unit other than ns"] += _points_of(metric)
        return
    for point in metric.sum.data_points:
        found = _device_time(point, resource)
        if isinstance(found, str):
            refused[found] += 1
        else:
            device_times.append(found)


def _number(point: NumberDataPoint) -> int | float:
    return point.as_int if point.WhichOneof("value") == "as_int" else point.as_double


def _device_time(point: NumberDataPoint, resource: _Said) -> DeviceTime | str:
    """The point, or why it cannot be taken."""
    said = {**resource, **_plain(point.attributes)}
    state = said.get(semconv.DEVICE_STATE)
    if state not in _DEVICE_STATES:
        return (
            f"{semconv.DEVICE_TIME} without a {semconv.DEVICE_STATE} of {', '.join(_DEVICE_STATES)}"
        )
    start_ns, time_ns = point.start_time_unix_nano, point.time_unix_nano
    if not 0 < start_ns <= time_ns <= MAX_UNIX_NS:
        return f"{semconv.DEVICE_TIME} without a start, or with a start after its time"
    value = _number(point)
    if not 0 <= value <= MAX_UNIX_NS:  # false for NaN too, which is neither above nor below
        return f"{semconv.DEVICE_TIME} that is no duration: below zero, too long, or no number"
    return DeviceTime(
        service_name=_said(said, semconv.SERVICE_NAME),
        instance_id=_said(said, semconv.SERVICE_INSTANCE_ID),
        device_id=_said(said, semconv.HW_ID),
        device_type=_said(said, semconv.DEVICE_TYPE, semconv.HW_NAME, semconv.HW_TYPE),
        state=state,
        start_unix_ns=start_ns,
        time_unix_ns=time_ns,
        value_ns=round(value),
    )


# Tokens and calls


class _Resource(NamedTuple):
    """A resource, read once for all that it sent."""

    said: _Said
    found: Found  # service_name, environment
    tags: Tags
    identity: bytes


def _resource(resource: Resource) -> _Resource:
    found, tags = read_resource(resource.attributes)
    said = _plain(resource.attributes)
    return _Resource(said, found, own_tags(tags), _identity(resource.attributes))


def _identity(attributes: Iterable[KeyValue]) -> bytes:
    """The same for the same attributes in any order."""
    pairs = sorted((pair.key, pair.value.SerializeToString()) for pair in attributes)
    return repr(pairs).encode()


@dataclass(frozen=True, slots=True)
class _Series:
    """The points of one metric that counts tokens or calls."""

    metric: Metric
    counts: TokenMetric
    resource: _Resource
    scope: InstrumentationScope

    def take(self, points: list[TokenPoint], refused: Counter[str]) -> None:
        which = self.metric.WhichOneof("data")
        if which not in ("sum", "histogram", "exponential_histogram"):
            return  # a gauge is no count; a summary has no start
        data = getattr(self.metric, which)
        if which == "sum" and not data.is_monotonic:
            return
        if data.aggregation_temporality not in (_CUMULATIVE, _DELTA):
            refused["token metric that is neither cumulative nor delta"] += _points_of(self.metric)
            return
        is_cumulative = data.aggregation_temporality == _CUMULATIVE
        for point in data.data_points:
            try:
                found = self._point(point, is_cumulative=is_cumulative)
            except _Refused as why:
                refused[str(why)] += 1
            else:
                if found is not None:
                    points.append(found)

    def _point(self, point: _Point, *, is_cumulative: bool) -> TokenPoint | None:
        """The point; None where it counts nothing that we know. Raises _Refused."""
        said = _plain(point.attributes)
        meter = self.counts.meter or METERS.get(_said(said, *TOKEN_TYPE_NAMES))
        if meter is None or point.flags & _NOTHING_RECORDED:
            return None
        found, tags = read_span(point.attributes)
        if found.get("operation") in otel_genai.WRAPPER_OPERATIONS:
            return None  # repeats what its calls used
        start_ns, time_ns = _times(point, is_cumulative=is_cumulative)
        tokens, calls = self._values(point, meter)
        resource_found = self.resource.found
        return TokenPoint(
            series=self._identity(point),
            is_cumulative=is_cumulative,
            start_unix_ns=start_ns,
            time_unix_ns=time_ns,
            meter=meter,
            tokens=tokens,
            calls=calls,
            scope=clean(self.scope.name) or "",
            family=self.counts.family,
            vantage=Vantage.GATEWAY if _OF_THE_PROXY in said else self.counts.vantage,
            service_name=resource_found.get("service_name", ""),
            environment=resource_found.get("environment", ""),
            instance_id=_said(self.resource.said, semconv.SERVICE_INSTANCE_ID),
            tags=_tags(tags, said),
            resource_tags=self.resource.tags,
            **self._offering(found, said),
        )

    def _identity(self, point: _Point) -> bytes:
        scope = self.scope
        parts = (self.resource.identity, scope.name, scope.version, _identity(scope.attributes))
        of_metric = (self.metric.name, _identity(point.attributes))
        return blake2b(repr((*parts, *of_metric)).encode(), digest_size=16).digest()

    def _values(self, point: _Point, meter: Meter) -> tuple[int, int]:
        """Tokens and calls. Raises _Refused."""
        if isinstance(point, NumberDataPoint):
            value, count = _number(point), 0
        else:
            value, count = point.sum, point.count
        if meter is Meter.CALLS:
            value, count = 0, count or value
        elif not (self.counts.calls_in_count and meter is Meter.INPUT):
            count = 0
        if not all(0 <= number <= MAX_NATURAL for number in (value, count)):
            raise _Refused("token metric that is no count: below zero, too large, or no number")
        return round(value), round(count)

    def _offering(self, found: Found, said: _Said) -> dict[str, str]:
        otel_genai.complete(found)
        offering = {name: found.get(name, "") for name in _OFFERING}
        if not offering["request_model"] and not offering["response_model"]:
            whole = {**self.resource.said, **said}
            offering["request_model"] = _said(whole, semconv.REQUEST_MODEL, *MODEL_NAMES)
        offering["provider"] = offering["provider"] or self.counts.provider
        return offering


def _times(point: _Point, *, is_cumulative: bool) -> tuple[int, int]:
    """From when to when it counted, in nanoseconds since 1970. Raises _Refused."""
    start_ns, time_ns = point.start_time_unix_nano, point.time_unix_nano
    if not 0 < time_ns <= MAX_UNIX_NS or start_ns > time_ns:
        raise _Refused("token metric without a time, or with a start after its time")
    if is_cumulative:
        return start_ns, time_ns
    if not start_ns or start_ns == time_ns:
        return time_ns - 1, time_ns  # since when it counted is not said: then it was just before
    if time_ns - start_ns > _MAX_DELTA_NS:
        raise _Refused("token metric of delta temporality over more than a day")
    return start_ns, time_ns


def _tags(tags: Found, said: _Said) -> Tags:
    found = own_tags(tags)
    if found.team or not (team := _said(said, *TEAM_NAMES)):
        return found
    return Tags(team, found.feature, found.customer, found.user, found.session)
