"""Data migrations, on databases that are filled as the service filled them then, or as it does today."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from django.db import connection
from psycopg import sql
from psycopg.conninfo import make_conninfo

from collectors.observation import Vantage
from costwatch.accounts.models import Organization
from costwatch.attribution import ingest
from costwatch.attribution.token_models import SpannedHour
from tests.attribution.before_profiles import CALLS, DAYS, INPUT_TOKENS
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


ROOT = Path(__file__).parents[2]
AS_OF_THEN = Path(__file__).with_name("before_profiles.sql")
USED = "SELECT hour, source_id, offering_id, calls, input_tokens, output_tokens, device_ns FROM attribution_usagehour ORDER BY 1, 2, 3"


@pytest.fixture
def scratch(db: None) -> Iterator[psycopg.Connection]:
    """An empty database beside the tests' own."""
    name = sql.Identifier(f"scratch_{uuid4().hex}")
    with psycopg.connect(_address("postgres"), autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            with psycopg.connect(_address(name.as_string().strip('"')), autocommit=True) as own:
                yield own
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def _address(database: str) -> str:
    said = connection.settings_dict
    where = {"host": said["HOST"], "port": said["PORT"]}
    who = {"user": said["USER"], "password": said["PASSWORD"]}
    return make_conninfo(dbname=database, **where, **who)


def run(database: psycopg.Connection, *command: str) -> str:
    """What a command of a release says to this database."""
    at = database.info
    url = f"postgresql://{at.user}:{at.password}@{at.host}:{at.port}/{at.dbname}"
    answer = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def fill_as_then(database: psycopg.Connection) -> None:
    run(database, "manage.py", "migrate", "accounts", "0001", "-v0")
    run(database, "manage.py", "migrate", "attribution", "0004", "-v0")
    for table in ("attribution_span", "attribution_entry"):
        for day in DAYS:
            database.execute(
                f"CREATE TABLE {table}_{day:%Y%m%d} PARTITION OF {table} "
                f"FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
            )
    database.execute(AS_OF_THEN.read_text())


@pytest.mark.slow
def test_what_was_kept_before_profiles_is_the_same_after_them(scratch: psycopg.Connection) -> None:
    fill_as_then(scratch)
    run(scratch, "manage.py", "migrate", "-v0")
    run(scratch, "-m", "tests.attribution.send_again")
    assert run(scratch, "manage.py", "audit") == "", "no difference"
    used = scratch.execute(USED).fetchall()
    assert sum(row[3] for row in used) == CALLS
    assert sum(row[4] for row in used) == INPUT_TOKENS
    assert sum(row[6] for row in used) == 400_000_000
    hours = scratch.execute(
        "SELECT hour::text, service_name, environment, model, vantage FROM attribution_spannedhour ORDER BY 1, 2, 3, 4"
    ).fetchall()
    noon, midnight = "2026-11-20 12:00:00+00", "2026-11-21 00:00:00+00"
    assert hours == [
        (noon, "runtime", "prod", "gpt-4o", "server"),
        (noon, "runtime", "prod", "gpt-4o-2024-08-06", "server"),
        (noon, "shop", "", "", "client"),
        (noon, "shop", "prod", "gpt-4o", "client"),
        (noon, "shop", "prod", "gpt-4o-2024-08-06", "client"),
        (midnight, "shop", "prod", "gpt-4o", "client"),
        (midnight, "shop", "prod", "gpt-4o-2024-08-06", "client"),
    ]
