"""The cast of the tests, and telemetry that they send."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import factory
from factory.django import DjangoModelFactory

from collectors.observation import (
    Decoded,
    Observation,
    Provenance,
    SpanLink,
    Tags,
    Usage,
    Vantage,
)
from costwatch.accounts.models import IngestKey, Membership, Organization, Team, User

_numbers = itertools.count(1)


class OrganizationFactory(DjangoModelFactory[Organization]):
    class Meta:
        model = Organization

    name = factory.Sequence(lambda n: f"Organization {n}")


class UserFactory(DjangoModelFactory[User]):
    class Meta:
        model = User
        skip_postgeneration_save = True

    email = factory.Sequence(lambda n: f"person{n}@example.org")
    password = factory.django.Password("correct horse battery staple")


class MembershipFactory(DjangoModelFactory[Membership]):
    class Meta:
        model = Membership

    organization = factory.SubFactory(OrganizationFactory)
    user = factory.SubFactory(UserFactory)
    role = Membership.Role.MEMBER


class TeamFactory(DjangoModelFactory[Team]):
    class Meta:
        model = Team

    organization = factory.SubFactory(OrganizationFactory)
    name = factory.Sequence(lambda n: f"Team {n}")


def ingest_key(organization: Organization, **fields: Any) -> IngestKey:
    key, _ = IngestKey.issue(organization=organization, name="tests", **fields)
    assert isinstance(key, IngestKey)
    return key


# A moment inside an hour, well within retention, on which the telemetry of tests is dated.
NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def unix_ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def observation(**fields: Any) -> Observation:
    """A client's span about one chat call of 100 + 20 tokens, each time another span."""
    number = next(_numbers)
    start_ns = unix_ns(fields.pop("at", NOON))
    default = Observation(
        trace_id=number.to_bytes(16),
        span_id=number.to_bytes(8),
        parent_span_id=None,
        start_unix_ns=start_ns,
        end_unix_ns=start_ns + fields.pop("duration_ns", 1_500_000_000),
        dialect="otel_genai",
        vantage=Vantage.CLIENT,
        service_name="shop",
        tags=Tags(team=fields.pop("team", None), feature=fields.pop("feature", None)),
        operation="chat",
        provider="openai",
        request_model="gpt-4o",
        response_model="gpt-4o-2024-08-06",
        usage=Usage(input_tokens=100, output_tokens=20),
        provenance=Provenance.REPORTED,
    )
    return replace(default, **fields)


def body(*observations: Observation, links: tuple[SpanLink, ...] = ()) -> Decoded:
    """What decoding a body with these spans gives."""
    own = [SpanLink(o.trace_id, o.span_id, o.parent_span_id, o.start_unix_ns) for o in observations]
    return Decoded(
        observations=list(observations),
        links=[*own, *links],
        items=len(observations) + len(links),
    )
