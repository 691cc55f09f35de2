"""OpenTelemetry's own meters before the real doors, with and without spans beside them."""

import time
from collections.abc import Callable

import pytest
from django.db.models import Sum
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution.audit import differences
from costwatch.attribution.models import UsageHour
from costwatch.attribution.rollups import add_batches
from tests.attribution.servers import Server, grpc_server, http_server
from tests.attribution.test_receive_servers import running
from tests.factories import OrganizationFactory

pytestmark = pytest.mark.django_db(transaction=True)

RESOURCE = Resource({"service.name": "shop", "team": "search"})
CALL = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
CALL |= {"gen_ai.request.model": "gpt-4o"}


def over_http(http: Server, _: Server, headers: dict[str, str]) -> MetricExporter:
    return HttpExporter(
        f"http://{http.address}/v1/metrics",
        headers=headers,
        preferred_temporality={Histogram: AggregationTemporality.DELTA},
    )


def over_grpc(_: Server, grpc: Server, headers: dict[str, str]) -> MetricExporter:
    return GrpcExporter(f"http://{grpc.address}", headers=headers)  # cumulative


def counted(organization: Organization) -> tuple[int, ...]:
    """Calls, input and output; what has come is added first, and audited."""
    add_batches(organization.pk)
    assert list(differences()) == []
    rows = UsageHour.objects.filter(organization=organization)
    sums = rows.aggregate(calls=Sum("calls"), i=Sum("input_tokens"), o=Sum("output_tokens"))
    return tuple(int(value or 0) for value in sums.values())


@pytest.mark.parametrize("exporter", [over_http, over_grpc])
def test_a_meter_counts_for_its_service_until_spans_are_sent(
    transactional_db: None, exporter: Callable[..., MetricExporter]
) -> None:
    organization = OrganizationFactory()
    _, secret = IngestKey.issue(organization=organization, name="tests")
    headers = {"authorization": f"Bearer {secret}"}
    http, grpc = http_server(), grpc_server()
    begun_ns = time.time_ns()
    with running(http, grpc):
        reader = PeriodicExportingMetricReader(
            exporter(http, grpc, headers), export_interval_millis=3_600_000
        )
        meters = MeterProvider([reader], resource=RESOURCE)
        usage = meters.get_meter("app").create_histogram("gen_ai.client.token.usage")

        def call() -> None:
            usage.record(120, {**CALL, "gen_ai.token.type": "input"})
            usage.record(30, {**CALL, "gen_ai.token.type": "output"})

        call()
        call()
        assert meters.force_flush(30_000)
        assert counted(organization) == (2, 240, 60)
        call()
        assert meters.force_flush(30_000)
        assert meters.force_flush(30_000)
        assert counted(organization) == (3, 360, 90)
        [source] = {row.source for row in UsageHour.objects.select_related("source")}
        assert (source.service_name, source.team_tag) == ("shop", "search")

        spans = TracerProvider(resource=RESOURCE)
        traces = OTLPSpanExporter(f"http://{http.address}/v1/traces", headers=headers)
        spans.add_span_processor(SimpleSpanProcessor(traces))
        said = {**CALL, "gen_ai.usage.input_tokens": 120, "gen_ai.usage.output_tokens": 30}
        tracer = spans.get_tracer("app")
        # From the beginning of it all, so that no hour without spans is left.
        tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=said, start_time=begun_ns).end()
        assert counted(organization) == (1, 120, 30)
        call()
        assert meters.force_flush(30_000)
        assert counted(organization) == (1, 120, 30)
        meters.shutdown()
        spans.shutdown()
