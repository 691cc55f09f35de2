"""Metrics captured from real instrumentations: right when they are all there is, and nothing beside spans."""

import random
from pathlib import Path

import pytest
from django.db.models import Sum

from collectors.observation import Decoded
from costwatch.accounts.models import Organization
from costwatch.attribution import ingest
from costwatch.attribution.models import UsageHour
from costwatch.attribution.rollups import add_batches
from tests.collectors.corpus_metrics import WITH_METRICS, metrics_of
from tests.collectors.test_corpus import decoded, expected
from tests.factories import OrganizationFactory, ingest_key

CASE = pytest.mark.parametrize(
    "case", WITH_METRICS, ids=lambda case: f"{case.parent.name}-{case.name}"
)
_REPEATS_ITS_CLIENT = "pydantic-ai"  # a scope


def counted(organization: Organization) -> tuple[int, ...]:
    """Calls, input and output in the rollups."""
    add_batches(organization.pk)
    names = ("calls", "input_tokens", "cache_read_input_tokens", "cache_write_input_tokens")
    found = UsageHour.objects.filter(organization=organization).aggregate(
        **{f"{name}_": Sum(name) for name in (*names, "output_tokens")}
    )
    calls, *inputs, output = (int(value or 0) for value in found.values())
    return calls, sum(inputs), output


def shuffled(pieces: list[Decoded], seed: int) -> list[Decoded]:
    pieces = pieces + pieces[::2]
    random.Random(seed).shuffle(pieces)
    return pieces


@CASE
def test_metrics_alone_give_what_was_counted(organization: Organization, case: Path) -> None:
    key = ingest_key(organization)
    for piece in shuffled([Decoded(token_points=[point]) for point in metrics_of(case)], 1):
        ingest.take(key, piece)
    right = [
        said for said in expected(case)["metrics_tokens"] if said["scope"] != _REPEATS_ITS_CLIENT
    ]
    _, inputs, output = counted(organization)
    assert inputs == sum(said["right_total"] for said in right if said["token_type"] == "input")
    assert output == sum(said["right_total"] for said in right if said["token_type"] == "output")


@pytest.mark.parametrize("seed", [1, 2])
@CASE
def test_metrics_add_nothing_to_their_own_spans(
    organization: Organization, case: Path, seed: int
) -> None:
    spans = [Decoded([seen]) for seen in decoded(case).observations]
    metrics = [Decoded(token_points=[point]) for point in metrics_of(case)]
    both, alone = ingest_key(organization), ingest_key(OrganizationFactory())
    for piece in shuffled([*spans, *metrics], seed):
        ingest.take(both, piece)
    for piece in spans:
        ingest.take(alone, piece)
    assert counted(both.organization) == counted(alone.organization)
