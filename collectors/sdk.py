"""OpenTelemetry's SDK, set up to send what this process uses to costwatch, with who pays for it."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from collectors import instrumentations, semconv
from collectors.context import TagSpans, tag_attributes
from collectors.instrumentations import Coverage

logger = logging.getLogger(__name__)

_lock = Lock()
_configured: "Configured | None" = None


class ConfigurationError(ValueError):
    """Nothing can be sent as things stand; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where telemetry goes, and the headers that open the door."""

    traces_url: str
    metrics_url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Configured:
    """What configure() set up."""

    target: Target
    coverage: Coverage
    tracer_provider: TracerProvider
    meter_provider: MeterProvider

    def flush(self, timeout_seconds: float = 10) -> bool:
        """Send what is waiting. False where the time did not suffice, or the receiver did not take it."""
        timeout_ms = round(timeout_seconds * 1000)
        spans_sent = self.tracer_provider.force_flush(timeout_ms)
        return self.meter_provider.force_flush(timeout_ms) and spans_sent

    def shutdown(self) -> None:
        """Send what is waiting, then no more. The interpreter's exit does it, too."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def configure(
    *,
    team: str | None = None,
    feature: str | None = None,
    customer: str | None = None,
    endpoint: str | None = None,
    key: str | None = None,
    service_name: str | None = None,
    environment: str | None = None,
    resource_attributes: Mapping[str, str] | None = None,
) -> Configured:
    """Send this process's inference calls to costwatch; `team` pays unless a block or a span says otherwise.

    What is not given comes from COSTWATCH_ENDPOINT and COSTWATCH_KEY, or from OpenTelemetry's own OTEL_EXPORTER_OTLP_*,
    OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. An application that has set the SDK up already keeps its own;
    ours is added to it. A second call changes nothing, warns and returns the first one's result.

    Raises ConfigurationError where no endpoint or no key is known.
    """
    global _configured
    with _lock:
        if _configured is not None:
            logger.warning("costwatch is configured already; this call of configure() does nothing")
            return _configured
        target = find_target(endpoint, key)
        tags = tag_attributes(team=team, feature=feature, customer=customer)
        resource = _resource(tags, service_name, environment, resource_attributes or {})
        tracers = _tracer_provider(target, resource, tags)
        meters = _meter_provider(target, resource)
        coverage = instrumentations.switch_on(tracers, meters)
        _configured = Configured(target, coverage, tracers, meters)
    level = logging.WARNING if coverage.uncovered else logging.INFO
    logger.log(level, "costwatch %s; sends to %s", coverage, target.traces_url)
    return _configured


def find_target(endpoint: str | None, key: str | None) -> Target:
    """Where to send, from the arguments, else from the environment. Raises ConfigurationError."""
    environ = os.environ
    base = endpoint or environ.get("COSTWATCH_ENDPOINT")
    traces_url = metrics_url = ""
    if not base:
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        traces_url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
        metrics_url = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "")
    if not base and not (traces_url and metrics_url):
        raise ConfigurationError(
            "costwatch has no endpoint; pass configure(endpoint=…) or set COSTWATCH_ENDPOINT,"
            " such as http://localhost:4318"
        )
    base = (base or "").rstrip("/")
    return Target(
        traces_url or f"{base}/v1/traces",
        metrics_url or f"{base}/v1/metrics",
        _headers(key or environ.get("COSTWATCH_KEY")),
    )


def _headers(key: str | None) -> dict[str, str]:
    """The key's header. None where OTEL_EXPORTER_OTLP_HEADERS has one, which the exporters read themselves."""
    if key:
        return {"authorization": f"Bearer {key}"}
    if "authorization" in os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").lower():
        return {}
    raise ConfigurationError(
        "costwatch has no ingest key; pass configure(key=…) or set COSTWATCH_KEY;"
        " make one with: costwatch create_key --organization NAME"
    )


def _resource(
    tags: Mapping[str, str],
    service_name: str | None,
    environment: str | None,
    attributes: Mapping[str, str],
) -> Resource:
    said = {semconv.SERVICE_NAME: service_name, semconv.DEPLOYMENT_ENVIRONMENT: environment}
    return Resource.create(
        {**tags, **attributes, **{name: value for name, value in said.items() if value}}
    )


def _tracer_provider(target: Target, resource: Resource, tags: Mapping[str, str]) -> TracerProvider:
    """The application's own provider, or a new one, with our two processors."""
    provider = trace.get_tracer_provider()
    is_new = not isinstance(provider, TracerProvider)
    if not isinstance(provider, TracerProvider):
        # A caller that samples would drop the callee's spans with its own, and their cost.
        sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ALWAYS_ON
        provider = TracerProvider(resource=resource, sampler=sampler)
        trace.set_tracer_provider(provider)
    exporter = OTLPSpanExporter(
        target.traces_url, headers=dict(target.headers) or None, compression=Compression.Gzip
    )
    provider.add_span_processor(TagSpans({} if is_new else tags))  # else the resource has them
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _meter_provider(target: Target, resource: Resource) -> MeterProvider:
    """The application's own provider as it is, for readers cannot be added to one; else a new one."""
    provider = metrics.get_meter_provider()
    if isinstance(provider, MeterProvider):
        return provider
    exporter = OTLPMetricExporter(
        target.metrics_url, headers=dict(target.headers) or None, compression=Compression.Gzip
    )
    provider = MeterProvider(
        resource=resource, metric_readers=[PeriodicExportingMetricReader(exporter)]
    )
    metrics.set_meter_provider(provider)
    return provider
