"""An application with OpenTelemetry of its own, which knows nothing of costwatch; it prints what its backend got."""

import logging
import os

import httpx
import openai
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

logging.basicConfig(level=logging.WARNING)
URL = os.environ["PROVIDER_URL"] + "/v1"
backend = InMemorySpanExporter()
provider = TracerProvider(resource=Resource.create({"service.name": "theirs"}))
trace.set_tracer_provider(provider)
provider.add_span_processor(SimpleSpanProcessor(backend))
meters = MeterProvider()
metrics.set_meter_provider(meters)
assert trace.get_tracer_provider() is provider
assert metrics.get_meter_provider() is meters

with trace.get_tracer("app").start_as_current_span("handler"):
    openai.OpenAI(base_url=URL, api_key="none").chat.completions.create(
        model="library", messages=[]
    )
    httpx.post(URL + "/chat/completions", json={"model": "plain", "messages": []})
provider.force_flush()
assert sorted(span.name for span in backend.get_finished_spans()) == [
    "chat library",
    "chat plain",
    "handler",
]
