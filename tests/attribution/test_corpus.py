"""Telemetry captured from real instrumentations, sent span by span in any order: every call once, as billed."""

import random
from pathlib import Path

import pytest

from collectors.observation import Decoded, Observation, Provenance
from costwatch.accounts.models import Organization
from costwatch.attribution import ingest
from costwatch.attribution.copying import datetime_of
from costwatch.attribution.health import REPEATED_ID
from costwatch.attribution.identity import start_micros
from costwatch.attribution.models import IngestHour, Source, UsageHour
from costwatch.attribution.rollups import add_batches
from tests.collectors.test_corpus import CASES, decoded, expected
from tests.factories import ingest_key


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_every_call_is_counted_once_whatever_comes_first(
    organization: Organization, case: Path, seed: int
) -> None:
    body = decoded(case)
    pieces = [Decoded(observations=[seen]) for seen in body.observations]
    about = {(seen.trace_id, seen.span_id) for seen in body.observations}
    pieces += [
        Decoded(links=[link]) for link in body.links if (link.trace_id, link.span_id) not in about
    ]
    pieces += pieces[::3]
    random.Random(seed).shuffle(pieces)
    key = ingest_key(organization)
    for piece in pieces:
        ingest.take(key, piece)
    add_batches(organization.pk)

    told = [call for call in expected(case)["calls"] if call["carriers"]]
    exact = [call["usage"] for call in told if call["usage_on_wire"] == "exact"]
    guessed = [seen.usage for seen in _only_guessed(case, body)]
    rows = UsageHour.objects.filter(organization=organization)
    assert sum(row.calls for row in rows) == len(told)
    assert sum(
        row.input_tokens + row.cache_read_input_tokens + row.cache_write_input_tokens
        for row in rows
    ) == sum(usage["input_total"] for usage in exact) + sum(u.input_tokens or 0 for u in guessed)
    assert sum(row.output_tokens for row in rows) == (
        sum(usage["output_total"] for usage in exact) + sum(u.output_tokens or 0 for u in guessed)
    )
    teams = {call["tags"]["team"] or "" for call in told}
    counted = {row.source_id for row in rows if row.calls}
    assert set(Source.objects.filter(pk__in=counted).values_list("team_tag", flat=True)) == teams
    assert not IngestHour.objects.filter(outcome=REPEATED_ID).exists(), "each id is of one call"
    hours = {row.hour for row in rows if row.calls}
    assert hours <= {
        datetime_of(start_micros(seen)).replace(minute=0, second=0, microsecond=0)
        for seen in body.observations
    }


def _only_guessed(case: Path, body: Decoded) -> list[Observation]:
    """Views of calls whose real usage nobody sent: what a library made up is counted, and marked as estimated."""
    wrong = [call for call in expected(case)["calls"] if call["usage_on_wire"].startswith("wrong")]
    spans = {carrier["span"] for call in wrong for carrier in call["carriers"]}
    seen = [one for one in body.observations if one.span_id.hex() in spans]
    return [one for one in seen if one.provenance is Provenance.ESTIMATED]
