"""Bodies of 512 spans as opentelemetry-instrumentation-openai-v2 makes them, tagged by collectors."""

import secrets
import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPANS = 512


def body() -> bytes:
    """Every call its own, of now; 18 attributes each, about 700 bytes."""
    message = ExportTraceServiceRequest()
    of_resource = message.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = of_resource.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai_v2"
    now_ns = time.time_ns()
    for number in range(SPANS):
        span = scope.spans.add(
            trace_id=secrets.token_bytes(16),
            span_id=secrets.token_bytes(8),
            name="chat gpt-4o",
            kind=3,
            start_time_unix_nano=now_ns - 1_700_000_000 - number,
            end_time_unix_nano=now_ns - number,
        )
        for name, text in _texts(number).items():
            span.attributes.add(key=name).value.string_value = text
        for name, count in _counts(number).items():
            span.attributes.add(key=name).value.int_value = count
        span.attributes.add(key="gen_ai.request.temperature").value.double_value = 0.2
    return message.SerializeToString()


def _texts(number: int) -> dict[str, str]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.id": f"chatcmpl-{secrets.token_hex(14)}",
        "gen_ai.response.finish_reasons": "stop",
        "gen_ai.openai.request.service_tier": "auto",
        "server.address": "api.openai.com",
        "costwatch.team": f"team-{number % 8}",
        "costwatch.feature": f"feature-{number % 5}",
        "user.id": f"user-{number}",
        "session.id": f"session-{number // 4}",
    }


def _counts(number: int) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": 1000 + number,
        "gen_ai.usage.output_tokens": 80 + number % 50,
        "gen_ai.usage.cache_read.input_tokens": 512,
        "gen_ai.request.max_tokens": 400,
        "server.port": 443,
    }
