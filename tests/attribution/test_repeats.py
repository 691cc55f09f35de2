"""A response id that comes again for another call merges calls: whoever sends it is told."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Observation, Provenance, Usage, Vantage
from costwatch.accounts.models import IngestKey, Organization, User
from costwatch.attribution import dimensions, ingest, partitions, profiles, spanned
from costwatch.attribution.health import REPEATED_ID
from costwatch.attribution.models import Entry, IngestHour
from tests.factories import NOON, OrganizationFactory, body, ingest_key, observation

ID = "chatcmpl-constant-of-a-gateway"
OTHER_COUNTS = Usage(input_tokens=7, output_tokens=3)


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def of_id(**fields: Any) -> Observation:
    return observation(response_id=ID, **fields)


def send(key: IngestKey, *observations: Observation) -> None:
    for one in observations:
        ingest.take(key, body(one))


def warned(key: IngestKey) -> int:
    rows = IngestHour.objects.filter(organization=key.organization_id, outcome=REPEATED_ID)
    return sum(row.items for row in rows)


def calls(key: IngestKey) -> int:
    return sum(row.sign for row in Entry.objects.filter(organization=key.organization_id))


def below(outer: Observation, **fields: Any) -> Observation:
    return of_id(trace_id=outer.trace_id, parent_span_id=outer.span_id, **fields)


LATER = {"at": NOON + timedelta(hours=1)}
OF_OTHER_CALLS = {
    "another model": {"response_model": "gpt-4o-mini-2024-07-18"},
    "another model, much later": {"response_model": "o3", **LATER},
    "other counts": {"usage": OTHER_COUNTS},
    "other counts in another service": {"usage": OTHER_COUNTS, "service_name": "bot"},
    "more output, much later": {"usage": Usage(input_tokens=100, output_tokens=21), **LATER},
}
OF_ONE_CALL = {
    "the same once more": {},
    "the same from a cache an hour later": LATER,
    "an alias of the model": {"response_model": "openai/gpt-4o"},
    "from the server, which counts otherwise": {
        "vantage": Vantage.SERVER,
        "usage": OTHER_COUNTS,
        "response_model": "/models/weights",
    },
    "from a framework that sums": {
        "vantage": Vantage.FRAMEWORK,
        "usage": Usage(input_tokens=900, output_tokens=40),
    },
    "by another instrumentation": {"dialect": "openllmetry", "usage": OTHER_COUNTS},
    "a guess": {"usage": OTHER_COUNTS, "provenance": Provenance.ESTIMATED},
    "without counts": {"usage": Usage(), "provenance": Provenance.ABSENT},
    "without the cache's part": {"usage": Usage(input_tokens=60, cache_read_input_tokens=40, output_tokens=20)},
    "half of a stream in a proxy": {"usage": OTHER_COUNTS, "streaming": True, "service_name": "proxy"},
    "a failed attempt": {"usage": OTHER_COUNTS, "error_type": "timeout"},
}  # fmt: skip


@pytest.mark.parametrize("fields", OF_OTHER_CALLS.values(), ids=OF_OTHER_CALLS.keys())
def test_what_cannot_be_the_same_call_is_warned_of_and_marked(
    key: IngestKey, fields: dict[str, Any]
) -> None:
    send(key, of_id())
    assert warned(key) == 0
    send(key, other := of_id(**fields), other)
    assert warned(key) == 1
    row = IngestHour.objects.get(outcome=REPEATED_ID)
    assert row.example == ID
    assert calls(key) == 1, "as for any other view"
    assert Entry.objects.order_by("revision").last().contradicted  # type: ignore[union-attr]


@pytest.mark.parametrize("fields", OF_ONE_CALL.values(), ids=OF_ONE_CALL.keys())
def test_honest_views_of_one_call_are_not_warned_of(key: IngestKey, fields: dict[str, Any]) -> None:
    send(key, of_id(), of_id(**fields))
    assert warned(key) == 0
    assert calls(key) == 1
    assert not Entry.objects.filter(contradicted=True).exists()


def test_a_span_around_another_may_sum(key: IngestKey) -> None:
    outer = of_id(usage=Usage(input_tokens=300, output_tokens=60))
    send(key, outer, below(outer))
    assert warned(key) == 0
    sibling = below(outer)
    send(key, sibling, below(sibling, usage=OTHER_COUNTS))
    assert warned(key) == 1, "a call beside the others is not around them"


class Repeats(TestCase):
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=12),
        st.randoms(use_true_random=False),
    )
    def test_as_many_calls_are_warned_of_as_are_merged_whatever_the_order(
        self, sent: list[tuple[int, bool]], chance: random.Random
    ) -> None:
        for cache in (dimensions.forget_ids, profiles.forget, partitions.forget_made):
            cache()
        spanned.forget()
        key = ingest_key(OrganizationFactory())
        seen = [
            of_id(
                at=NOON + timedelta(minutes=chance.randrange(60)),
                usage=Usage(input_tokens=count, output_tokens=5),
                vantage=Vantage.CLIENT,
            )
            for count, _ in sent
        ]
        seen += [
            replace(one, span_id=b"%08d" % n, vantage=Vantage.SERVER, usage=OTHER_COUNTS)
            for n, (one, (_, is_seen_by_server)) in enumerate(zip(seen, sent, strict=True))
            if is_seen_by_server
        ]
        pieces = [*seen, *chance.sample(seen, len(seen) // 2)]
        chance.shuffle(pieces)
        while pieces:
            size = chance.randint(1, len(pieces))
            ingest.take(key, body(*pieces[:size]))
            pieces = pieces[size:]
        different = len({count for count, _ in sent})
        rows = IngestHour.objects.filter(organization=key.organization_id, outcome=REPEATED_ID)
        assert sum(row.items for row in rows) == different - 1
        marked = Entry.objects.filter(organization=key.organization_id, contradicted=True)
        assert sum(row.sign for row in marked) == (different > 1)


def test_the_warning_names_an_id_where_health_is_shown(
    key: IngestKey, owner: User, organization: Organization
) -> None:
    client = Client()
    client.force_login(owner)
    with time_machine.travel(NOON):
        send(key, of_id(), of_id(usage=OTHER_COUNTS), of_id(usage=Usage(1, None, None, 2)))
        page = client.get(reverse("sources-ingest")).content.decode()
        health = client.get("/api/v1/ingest-health").json()
    assert "ids repeat" in page
    assert f'with another model or other counts, as <span class="mono">{ID}</span>' in page
    [one] = health["keys"]
    assert one["repeated_ids"] == [
        {"reason": "with another model or other counts", "items": 2, "example": ID}
    ]
    assert (one["items"], one["counted"]) == (3, 3)
