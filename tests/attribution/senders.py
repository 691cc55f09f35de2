"""Applications that send with OpenTelemetry's own exporters."""

import threading

import grpc
from opentelemetry.exporter.otlp.json.http.trace_exporter import (
    OTLPSpanExporter as JsonExporter,
)
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpExporter,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind


def exporters(http_port: int, grpc_port: int, secret: str) -> dict[str, SpanExporter]:
    """OpenTelemetry's own, by name: each protocol, plain and compressed, patient enough for a restart."""
    headers = {"authorization": f"Bearer {secret}"}
    traces = f"http://127.0.0.1:{http_port}/v1/traces"
    grpc_url = f"http://127.0.0.1:{grpc_port}"
    return {
        "http-plain": HttpExporter(traces, headers=headers, timeout=90),
        "http-gzip": HttpExporter(
            traces, headers=headers, timeout=90, compression=Compression.Gzip
        ),
        "json": JsonExporter(traces, headers=headers, timeout=90),
        "grpc-plain": GrpcExporter(grpc_url, headers=headers, timeout=90),
        "grpc-gzip": GrpcExporter(
            grpc_url, headers=headers, timeout=90, compression=grpc.Compression.Gzip
        ),
    }


class Sender(threading.Thread):
    """An application: a call every few milliseconds, sent in small batches by an exporter of the SDK's."""

    def __init__(self, name: str, exporter: SpanExporter, stopped: threading.Event) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self._stopped = stopped
        self._provider = TracerProvider(resource=Resource({"service.name": name}))
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=100_000,
                schedule_delay_millis=50,
                max_export_batch_size=16,
                export_timeout_millis=90_000,
            )
        )

    def run(self) -> None:
        tracer = self._provider.get_tracer("opentelemetry.instrumentation.openai_v2")
        while not self._stopped.is_set():
            said = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.usage.input_tokens": 12,
                "gen_ai.usage.output_tokens": 4,
            }
            tracer.start_span("chat gpt-4o", kind=SpanKind.CLIENT, attributes=said).end()
            self.sent += 1
            self._stopped.wait(0.01)

    def finish(self) -> None:
        self.join()
        assert self._provider.force_flush(90_000)
        self._provider.shutdown()
