"""A client that sends a random value wherever a name belongs does not blow the tables up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Decoded, Observation, Tags
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import calls, dimensions, ingest, partitions, profiles, spanned
from costwatch.attribution.health import TOO_MANY_VALUES
from costwatch.attribution.models import (
    IngestHour,
    MetricUse,
    Offering,
    Profile,
    Source,
    SpannedHour,
    UsageHour,
)
from costwatch.attribution.rollups import add_batches
from costwatch.domain.periods import day_of
from tests.attribution.points import token_point
from tests.factories import NOON, OrganizationFactory, body, ingest_key, observation

MOST = 3
TAGS = {"team": "team_tag", "feature": "feature", "customer": "customer"}
OF_SOURCE = ("service_name", "environment")
OF_OFFERING = ("provider", "request_model", "response_model", "service_tier", "device_type")
SHOWN = ("feature", "customer", "provider", "request_model", "response_model")
VALUES = st.integers(0, 9)


def named(field: str, number: int) -> Observation:
    """A call that says something random in one place."""
    value = f"{field}-{number}"
    if field in TAGS:
        return observation(tags=replace(Tags(), **{field: value}))
    return observation(**{field: value})


def said(one: Observation | calls.Call, field: str) -> Any:
    return getattr(one.tags if isinstance(one, Observation) and field in TAGS else one, field)


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


class Overflow(TestCase):
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(
            st.tuples(st.sampled_from((*TAGS, *OF_SOURCE, *OF_OFFERING)), VALUES),
            min_size=1,
            max_size=40,
        ),
        st.integers(1, 20),
    )
    @override_settings(MAX_TAG_VALUES=MOST)
    def test_of_each_name_there_are_only_so_many_values_and_no_call_loses_its_own(
        self, sent: list[tuple[str, int]], at_once: int
    ) -> None:
        for cache in (dimensions.forget_ids, profiles.forget, partitions.forget_made):
            cache()
        spanned.forget()
        organization = OrganizationFactory()
        key = ingest_key(organization)
        seen = [named(*one) for one in sent]
        for first in range(0, len(seen), at_once):
            ingest.take(key, body(*seen[first : first + at_once]))
        add_batches(organization.pk)

        rows: dict[Any, tuple[str, ...]] = {
            Source: (*OF_SOURCE, *TAGS.values()),
            Offering: OF_OFFERING,
            SpannedHour: OF_SOURCE,
        }
        for model, fields in rows.items():
            for field in fields:
                values = set(model.objects.filter(organization=organization).values_list(field))
                assert len(values - {("",), ("other",)}) <= MOST, field
        assert Profile.objects.filter(organization=organization).count() <= (MOST + 1) * 10 + 1
        used = UsageHour.objects.filter(organization=organization)
        assert sum(row.calls for row in used) == len(sent)
        listed = calls.page(organization, day_of(NOON, "UTC"), limit=1000).calls
        for field in SHOWN:
            assert sorted(str(said(one, field)) for one in listed) == sorted(
                str(said(one, field) or None) for one in seen
            )


@pytest.mark.parametrize("field", [*TAGS, *OF_SOURCE, *OF_OFFERING])
def test_what_there_are_too_many_of_is_warned_of_by_its_name(
    key: IngestKey, settings: Any, field: str
) -> None:
    settings.MAX_TAG_VALUES = MOST
    ingest.take(key, body(*(named(field, number) for number in range(10))))
    [row] = IngestHour.objects.filter(outcome__startswith=TOO_MANY_VALUES)
    assert row.outcome == f"{TOO_MANY_VALUES}{field.replace('_', ' ')}: counted as other"
    assert 7 <= row.items <= 8, "one place is taken where all others say the usual"


def test_metrics_of_a_service_too_many_still_give_way_to_its_spans(
    key: IngestKey, settings: Any
) -> None:
    settings.MAX_TAG_VALUES = MOST
    services = [f"pod-{number}" for number in range(10)]
    for service in services:
        point = token_point(NOON + timedelta(minutes=5), 300, 3, service_name=service)
        ingest.take(key, Decoded(token_points=[point]))
    counted = {row.source.service_name for row in MetricUse.objects.select_related("source")}
    assert counted == {*services[:MOST], "other"}
    warned = IngestHour.objects.get(outcome__startswith=TOO_MANY_VALUES)
    assert (warned.outcome.split(":")[0], warned.items) == ("too many values of service name", 7)
    ingest.take(key, body(*(observation(service_name=service) for service in services)))
    assert sum(row.input_tokens for row in MetricUse.objects.all()) == 0
