"""OpenTelemetry's exporters to an outbox: what they are given is on disk when they return, and sent by the sender."""

import gzip
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from collectors.encode import encode
from collectors.sender import Sender

_COMPRESSION = 1  # fast; attributes repeat so much that more gains little


class SpansToOutbox(SpanExporter):
    """Keeps spans for the sender. FAILURE where they had to be dropped."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body = encode(spans)
        is_kept = self._sender.keep("traces", gzip.compress(body, _COMPRESSION), len(spans))
        return SpanExportResult.SUCCESS if is_kept else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._sender.leave()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class MetricsToOutbox(MetricExporter):
    """Keeps metrics for the sender. FAILURE where they had to be dropped."""

    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self._sender = sender

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
    ) -> MetricExportResult:
        body = encode_metrics(metrics_data).SerializeToString()
        if not body:
            return MetricExportResult.SUCCESS
        is_kept = self._sender.keep(
            "metrics", gzip.compress(body, _COMPRESSION), _metrics(metrics_data)
        )
        return MetricExportResult.SUCCESS if is_kept else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        self._sender.leave()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True


def _metrics(data: MetricsData) -> int:
    return sum(
        len(of_scope.metrics)
        for of_resource in data.resource_metrics
        for of_scope in of_resource.scope_metrics
    )
