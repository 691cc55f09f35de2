"""Data migrations, on data as the service writes it today."""

from importlib import import_module

from django.db import connection

from collectors.observation import Vantage
from costwatch.accounts.models import Organization
from costwatch.attribution import ingest
from costwatch.attribution.token_models import SpannedHour
from tests.factories import body, ingest_key, observation


def test_spans_that_were_kept_before_metrics_counted_cover_the_same_hours(
    organization: Organization,
) -> None:
    ingest.take(
        ingest_key(organization),
        body(
            observation(environment="prod"),
            observation(service_name="bot", duration_ns=7_000 * 10**9),
            observation(request_model="openai/GPT-4o", response_model=""),
            observation(request_model="", response_model="", service_name="nameless"),
            observation(request_model="", response_model="", vantage=Vantage.SERVER),
            observation(is_wrapper=True, service_name="agent"),
        ),
    )
    columns = ("organization", "hour", "service_name", "environment", "model", "vantage")
    written = set(SpannedHour.objects.values_list(*columns))
    SpannedHour.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(
            import_module("costwatch.attribution.migrations.0012_hours_of_kept_spans").FILL
        )
    assert set(SpannedHour.objects.values_list(*columns)) == written
    assert len(written) == 2 + 3 * 2 + 1 + 1 + 1
