"""OpenTelemetry's SDK, set up to send what this process uses to costwatch, with who pays for it."""

import atexit
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.util.re import parse_env_headers

from collectors import fingerprints, instrumentations, semconv, transport
from collectors.batches import KeepSpans
from collectors.context import TagSpans, tag_attributes
from collectors.export import MetricsToOutbox
from collectors.instrumentations import Coverage
from collectors.outbox import DEFAULT_LIMIT_BYTES, open_outbox
from collectors.sender import Sender
from collectors.workers import at_workers_exit

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
    sender: Sender | None  # None: nothing could be written anywhere, so nothing waits on disk
    tags: Mapping[str, str] = field(default_factory=dict)
    are_meters_theirs: bool = False  # the meter provider is one that the application had set before

    def flush(self, timeout_seconds: float = 10) -> bool:
        """Send what is waiting. False where the time did not suffice, or the receiver did not take it."""
        timeout_ms = round(timeout_seconds * 1000)
        are_kept = self.tracer_provider.force_flush(timeout_ms)
        are_kept = self.meter_provider.force_flush(timeout_ms) and are_kept
        return (self.sender is None or self.sender.flush(timeout_seconds)) and are_kept

    def shutdown(self) -> None:
        """Send what is waiting, then no more. The interpreter's exit does it, too, for 2 s at most.

        What the receiver does not take by then waits on disk for the next process.
        """
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        if self.sender is not None:
            self.sender.leave()


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
    zero_code: bool = False,
) -> Configured:
    """Send this process's inference calls to costwatch; `team` pays unless a block or a span says otherwise.

    What is not given comes from COSTWATCH_ENDPOINT and COSTWATCH_KEY, or from OpenTelemetry's own OTEL_EXPORTER_OTLP_*,
    OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. An application that has set the SDK up already keeps its own;
    ours is added to it. A second call changes nothing, warns and returns the first one's result.

    zero_code   the application knows nothing of us: libraries are instrumented when it imports them, and providers
                that it sets later are its own all the same, see give_way()

    Telemetry waits in a folder until the receiver has it (COSTWATCH_OUTBOX, COSTWATCH_OUTBOX_MAX_BYTES). With it go keyed
    hashes of what is asked (COSTWATCH_FINGERPRINT_KEY, else `key`; COSTWATCH_FINGERPRINTS=off: none).

    Calls of a library whose requests are read on the wire are read there; COSTWATCH_INSTRUMENTATIONS=installed has an
    instrumentation do it where one is installed.

    Raises ConfigurationError where no endpoint or no key is known, or a variable says something that cannot be.
    """
    global _configured
    with _lock:
        if _configured is not None:
            logger.warning("costwatch is configured already; this call of configure() does nothing")
            return _configured
        target = find_target(endpoint, key)
        all_installed = _asks_for_all_installed()
        tags = tag_attributes(team=team, feature=feature, customer=customer)
        resource = _resource(tags, service_name, environment, resource_attributes or {})
        sender = sender_to(target)
        spans = _batches(target, sender)
        tracers = _tracer_provider(resource, tags, spans)
        are_theirs = isinstance(metrics.get_meter_provider(), MeterProvider)
        meters = _meter_provider(target, resource, sender, is_for_all=not zero_code)
        transport.use_fingerprints(fingerprints.from_environment(os.environ, _ingest_key(target)))
        coverage = instrumentations.switch_on(
            tracers,
            _beside(tracers, meters, is_theirs=are_theirs),
            lazily=zero_code,
            all_installed=all_installed,
            keep=_keeping(spans),
        )
        _configured = Configured(target, coverage, tracers, meters, sender, tags, are_theirs)
        if sender is not None:
            at_workers_exit(sender, _configured.shutdown)
    level = logging.WARNING if coverage.uncovered and not zero_code else logging.INFO
    logger.log(level, "costwatch %s; sends to %s", coverage, target.traces_url)
    if sender is not None and not zero_code:
        for left in sender.outbox.left_beside():
            logger.warning("costwatch: %s", left)
    return _configured


def give_way(provider: TracerProvider) -> bool:
    """Let the application's own provider, which it sets after us, be the one; what we collect goes through it.

    False where we have none in its place, so that OpenTelemetry has to decide.
    """
    global _configured
    with _lock:
        ours = _configured
        if ours is None or trace.get_tracer_provider() is not ours.tracer_provider:
            return False
        spans = _batches(ours.target, ours.sender)
        _add_to(provider, ours.tags, spans)
        # OpenTelemetry lets nobody set it twice. An application that sets it once must not be told that it is the second.
        trace._TRACER_PROVIDER = provider
        instrumentations.switch_over(
            provider,
            _beside(provider, ours.meter_provider, is_theirs=ours.are_meters_theirs),
            keep=_keeping(spans),
        )
        _configured = replace(ours, tracer_provider=provider)
    ours.tracer_provider.force_flush()
    return True


def configured() -> Configured | None:
    """What configure() has set up in this process; None: nothing yet."""
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


def _ingest_key(target: Target) -> str:
    """Empty where a header opens the door that is not of our form."""
    headers = target.headers or _environment_headers()
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def sender_to(target: Target) -> Sender | None:
    """What keeps and sends telemetry for this receiver and key; None, with a warning, where no disk takes it."""
    headers = target.headers or _environment_headers()
    urls = {"traces": target.traces_url, "metrics": target.metrics_url}
    # What one key has sent must not go out under another.
    name = hashlib.sha256(repr((urls, sorted(headers.items()))).encode()).hexdigest()[:16]
    try:
        outbox = open_outbox(name, _limit_bytes())
    except OSError as error:
        logger.warning("costwatch keeps nothing through an outage of the receiver: %s", error)
        return None
    outbox.say_receiver(target.traces_url)
    sender = Sender(outbox, urls, headers)
    atexit.register(sender.leave)  # before the providers' own, which come first then
    return sender


def _environment_headers() -> dict[str, str]:
    said = os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    return dict(parse_env_headers(said, liberal=True))


def _limit_bytes() -> int:
    said = os.environ.get("COSTWATCH_OUTBOX_MAX_BYTES")
    if not said:
        return DEFAULT_LIMIT_BYTES
    try:
        return int(said)
    except ValueError:
        raise ConfigurationError(
            f"COSTWATCH_OUTBOX_MAX_BYTES={said!r}: expected a whole number of bytes, such as 67108864"
        ) from None


def _asks_for_all_installed() -> bool:
    said = os.environ.get(instrumentations.VARIABLE, "")
    if said.strip().lower() not in ("", "needed", "installed"):
        raise ConfigurationError(
            f"{instrumentations.VARIABLE}={said!r}: expected needed, which is the default, or installed"
        )
    return said.strip().lower() == "installed"


def _tracer_provider(
    resource: Resource, tags: Mapping[str, str], spans: SpanProcessor
) -> TracerProvider:
    """The application's own provider, or a new one, with our two processors."""
    provider = trace.get_tracer_provider()
    is_new = not isinstance(provider, TracerProvider)
    if not isinstance(provider, TracerProvider):
        # A caller that samples would drop the callee's spans with its own, and their cost.
        sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ALWAYS_ON
        provider = TracerProvider(resource=resource, sampler=sampler)
        trace.set_tracer_provider(provider)
    _add_to(provider, {} if is_new else tags, spans)  # else the resource has them
    return provider


def _add_to(provider: TracerProvider, tags: Mapping[str, str], spans: SpanProcessor) -> None:
    provider.add_span_processor(TagSpans(tags))
    provider.add_span_processor(spans)


def _keeping(spans: SpanProcessor) -> KeepSpans | None:
    return spans if isinstance(spans, KeepSpans) else None


def _batches(target: Target, sender: Sender | None) -> SpanProcessor:
    if sender is not None:
        return KeepSpans(sender, before=transport.drain)
    return BatchSpanProcessor(
        OTLPSpanExporter(
            target.traces_url, headers=dict(target.headers) or None, compression=Compression.Gzip
        )
    )


def metric_exporter(target: Target, sender: Sender | None) -> MetricExporter:
    """By way of the sender's outbox where there is one, else straight to the receiver."""
    if sender is not None:
        return MetricsToOutbox(sender)
    return OTLPMetricExporter(
        target.metrics_url, headers=dict(target.headers) or None, compression=Compression.Gzip
    )


def _meter_provider(
    target: Target, resource: Resource, sender: Sender | None, *, is_for_all: bool
) -> MeterProvider:
    """The application's own provider as it is, for readers cannot be added to one; else a new one.

    is_for_all   also for who asks OpenTelemetry for one, who then cannot be given the application's own any more
    """
    provider = metrics.get_meter_provider()
    if isinstance(provider, MeterProvider):
        return provider
    reader = PeriodicExportingMetricReader(metric_exporter(target, sender))
    provider = MeterProvider(resource=resource, metric_readers=[reader])
    if is_for_all:
        metrics.set_meter_provider(provider)
    return provider


def _beside(
    tracers: TracerProvider, meters: MeterProvider, *, is_theirs: bool
) -> metrics.MeterProvider:
    """Meters for the instrumentations that make these spans.

    Where all spans are sent, the receiver sets metrics about the same calls aside, and to count them takes an
    instrumentation as long as the span. So they go where the application has a meter provider of its own, or where a
    sampler leaves spans out.
    """
    is_needed = is_theirs or instrumentations.may_leave_out(tracers)
    return meters if is_needed else metrics.NoOpMeterProvider()
