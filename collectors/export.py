"""OpenTelemetry's exporter of metrics, to an outbox: what it is given is on disk when it returns, and sent later."""

import gzip

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from collectors.sender import Sender

_COMPRESSION = 1  # fast; attributes repeat so much that more gains little


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
