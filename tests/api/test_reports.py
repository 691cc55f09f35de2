"""Chargeback, capacity, ingest health, recommendations and the schema."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command

from collectors.observation import Decoded
from costwatch.accounts.models import IngestKey, Organization
from costwatch.api.chargeback import ChargebackSerializer, LineSerializer, TeamTotalSerializer
from costwatch.attribution.ingest import take
from costwatch.attribution.rollups import add_batches
from tests.api.conftest import Reader
from tests.attribution.points import MINUTE, token_point
from tests.factories import NOON, body, observation
from tests.web.test_recommendations import advice


def test_the_chargeback_is_the_same_in_both_formats(
    furnished: Organization, reader: Reader
) -> None:
    report = reader.get("chargeback", month="2026-11", format="json")
    answer = reader.client.get("/api/v1/chargeback", {"month": "2026-11", "format": "csv"})
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert 'filename="chargeback-2026-11.csv"' in answer["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert len(rows) == len(report["lines"]) > 0
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal(report["total"])
    assert sum(Decimal(team["cost"]) for team in report["teams"]) == Decimal(report["total"])


def test_the_chargeback_has_the_fields_that_the_schema_promises(
    furnished: Organization, reader: Reader
) -> None:
    report: dict[str, Any] = reader.get("chargeback")
    assert set(report) == set(ChargebackSerializer().fields)
    assert set(report["lines"][0]) == set(LineSerializer().fields)
    assert set(report["teams"][0]) == set(TeamTotalSerializer().fields)


def test_a_format_or_month_that_is_none_is_explained(
    organization: Organization, reader: Reader
) -> None:
    assert reader.refused("chargeback", format="doc")["format"] == [
        "'doc': expected one of json, csv, xlsx, pdf, focus-1.2, focus-1.2-parquet"
    ]
    assert "expected year and month" in reader.refused("chargeback", month="11/2026")["month"][0]


def test_capacity_is_conserved(furnished: Organization, reader: Reader) -> None:
    capacity = reader.get("capacity", start="2026-11-01", end="2026-12-01")
    [device] = capacity["results"]
    parts = (device["attributed_ns"], device["unattributed_ns"], device["idle_ns"])
    assert sum(parts) == device["wall_ns"] > 0
    charged = sum(team["device_ns"] for team in capacity["teams"])
    assert sum(team["device_ns_hour_normalised"] for team in capacity["teams"]) == charged > 0


def test_ingest_health_says_what_became_of_each_span(
    furnished: Organization, reader: Reader
) -> None:
    rows = reader.get("ingest-health")["results"]
    assert {row["outcome"] for row in rows} >= {"observation"}
    assert all(row["key"].startswith("tests (cwk_") for row in rows)


def test_ingest_health_says_which_token_metrics_counted(
    furnished: Organization, reader: Reader
) -> None:
    key = IngestKey.objects.get(organization=furnished)
    elsewhere = token_point(NOON + MINUTE, 300, 3, service_name="without-spans")
    take(key, Decoded(token_points=[elsewhere, elsewhere]))
    [health] = reader.get("ingest-health")["keys"]
    assert health["token_metrics"] == [
        {"reason": "counted", "items": 1, "example": ""},
        {"reason": "sent before", "items": 1, "example": ""},
    ]


def test_ingest_health_says_by_key_what_came_how_late_and_what_has_no_price(
    furnished: Organization, reader: Reader
) -> None:
    key = IngestKey.objects.get(organization=furnished)
    again = observation(at=NOON)
    contradicting = observation(at=NOON, contradiction="more cached than input tokens")
    take(key, body(again))
    take(key, body(again, contradicting, observation(at=NOON + timedelta(hours=5))))
    add_batches(furnished.pk)
    answer = reader.get("ingest-health")
    [health] = answer["keys"]
    assert health["key"].startswith("tests (cwk_")
    assert health["duplicates"] == 1
    assert health["refused"] == [
        {"reason": "lies more than an hour in the future", "items": 1, "example": ""}
    ]
    assert health["contradictions"] == [
        {"reason": "more cached than input tokens", "items": 1, "example": ""}
    ]
    assert health["items"] == sum(row["items"] for row in answer["results"])
    assert health["items_per_minute"] == pytest.approx(health["items"] / 90, rel=0.01)
    arrival, adding = health["lag"]["arrival"], health["lag"]["adding"]
    assert arrival["bodies"] >= 3
    assert 0 < arrival["average_seconds"] < arrival["longest_seconds"] < 2 * 24 * 3600
    assert 0 <= adding["average_seconds"] <= adding["longest_seconds"] < 600
    assert health["lag_lately"] == health["lag"], "all of it was received now"
    ranker = {
        "provider": "in-house",
        "model": "ranker-7b",
        "device_type": "",
        "meters": ["input_tokens", "output_tokens"],
        "unknown": True,
        "calls": answer["unpriced"][0]["calls"],
        "keys": [health["key"]],
        "lacks_rates_of": [],
    }
    assert answer["unpriced"][0] == ranker
    assert ranker["calls"] > 0


def test_recommendations_are_open_ones_unless_asked(
    organization: Organization, reader: Reader
) -> None:
    advice(organization)
    advice(organization, kind="response_cache", status="dismissed")
    [row] = reader.get("recommendations")["results"]
    assert (row["kind"], row["layer"], row["effort"]) == ("prefix_cache", "serving", "switch")
    assert Decimal(row["saving_high_per_month"]) == Decimal("3.40")
    assert row["evidence"]["calls"] == 394
    [dismissed] = reader.get("recommendations", status="dismissed")["results"]
    assert dismissed["kind"] == "response_cache"


def test_the_schema_is_valid_and_names_every_path(db: None) -> None:
    out = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=out)
    for path in (
        "assignment-rules",
        "assignment-rules/{rule_id}",
        "budgets",
        "budgets/{budget_id}",
        "calls",
        "capacity",
        "chargeback",
        "costs",
        "ingest-health",
        "ingest-keys",
        "ingest-keys/{key_id}",
        "months",
        "months/{month}",
        "recommendations",
        "repetition",
        "sources",
        "statements",
        "statements/{statement_id}",
        "statements/{statement_id}/lines",
    ):
        assert f"/api/v1/{path}:" in out.getvalue()
