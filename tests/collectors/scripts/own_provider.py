"""An application that has OpenTelemetry set up already, and calls configure() twice."""

import os

import openai
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import collectors

own = InMemorySpanExporter()
provider = TracerProvider(resource=Resource.create({"service.name": "theirs"}))
provider.add_span_processor(SimpleSpanProcessor(own))
trace.set_tracer_provider(provider)

first = collectors.configure(team="search")
second = collectors.configure(team="other")
assert first is second
assert first.tracer_provider is provider
client = openai.OpenAI(base_url=os.environ["PROVIDER_URL"] + "/v1", api_key="sk-none")
with (
    trace.get_tracer("app").start_as_current_span(
        "handler", attributes={"costwatch.feature": "said by the span"}
    ),
    collectors.attribute(feature="said by the block"),
):
    client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "hi"}])
first.shutdown()
assert [span.name for span in own.get_finished_spans()] == ["chat plain", "handler"]
