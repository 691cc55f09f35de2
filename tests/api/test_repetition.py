"""GET /repetition"""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from costwatch.accounts.models import IngestKey, Organization, User
from costwatch.attribution.ingest import take
from tests.api.conftest import Reader, reader_for
from tests.factories import body, ingest_key, observation

DAY = {"start": "2026-11-20", "end": "2026-11-21"}
HASHED: dict[str, Any] = {"request_hash": "0123456789abcdef", "prompt_bytes": 700}


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def test_repetition_is_measured_of_calls_whose_requests_were_hashed(
    key: IngestKey, reader: Reader
) -> None:
    take(key, body(observation(**HASHED), observation(**HASHED), observation()))
    assert reader.get("repetition", **DAY)["results"] == [
        {
            "service": "shop",
            "feature": "",
            "model": "gpt-4o-2024-08-06",
            "calls": 2,
            "repeated_calls": 1,
            "repeated_deterministic_calls": 0,
            "prompt_bytes": 1400,
            "repeated_prefix_bytes": 0,
        }
    ]


def test_another_organizations_token_sees_nothing_of_it(
    key: IngestKey, stranger: User, reader: Reader
) -> None:
    take(key, body(observation(**HASHED, service_name="secret service")))
    elsewhere = Organization.objects.get(name="Elsewhere")
    assert reader_for(stranger, elsewhere).get("repetition", **DAY) == {"results": []}
    take(ingest_key(elsewhere), body(observation(**HASHED)))
    [own] = reader_for(stranger, elsewhere).get("repetition", **DAY)["results"]
    assert (own["service"], own["repeated_calls"]) == ("shop", 0), "ours was asked before"
    [row] = reader.get("repetition", **DAY)["results"]
    assert row["service"] == "secret service"


def test_nobody_reads_it_without_a_token(key: IngestKey) -> None:
    take(key, body(observation(**HASHED)))
    answer = Client().get("/api/v1/repetition", DAY)
    assert answer.status_code == 401
    assert "results" not in answer.json()


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"start": "yesterday"}, "'yesterday'"),
        ({"start": "2026-11-21", "end": "2026-11-20"}, "is not after the start"),
        ({"end": "2026-13-01"}, "'2026-13-01'"),
    ],
)
def test_a_period_that_is_none_is_refused_with_what_was_wrong(
    reader: Reader, asked: dict[str, str], complaint: str
) -> None:
    assert complaint in str(reader.refused("repetition", **asked))


def test_any_period_may_be_asked_for(key: IngestKey, reader: Reader) -> None:
    take(key, body(observation(**HASHED), observation(**HASHED)))
    years = {"start": "2020-01-01", "end": "2030-01-01"}
    assert reader.get("repetition", **years) == reader.get("repetition", **DAY)
