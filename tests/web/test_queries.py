"""Pages ask the database as often for many rows as for few."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from costwatch.accounts.models import Organization, Team
from costwatch.attribution.assignment import reassign
from costwatch.attribution.ingest import take
from costwatch.attribution.models import AssignmentRule
from costwatch.attribution.rollups import add_batches
from costwatch.pricing.rates import refresh
from tests.factories import NOON, TeamFactory, body, ingest_key, observation

PAGES = (
    "overview",
    "sources",
    "sources-unattributed",
    "sources-rules",
    "sources-ingest",
    "settings",
    "api-sources",
    "api-assignment-rules",
    "api-ingest-keys",
    "api-ingest-health",
)


def grow(organization: Organization, rows: int) -> None:
    """So many more departments with a team each, keys, rules, sources that are paid for and others."""
    for _ in range(rows):
        department: Team = TeamFactory(organization=organization)
        team: Team = TeamFactory(organization=organization, parent=department)
        AssignmentRule.objects.create(
            organization=organization,
            team=team,
            service_name=f"{team.slug}*",
            valid_from=datetime.fromisoformat(f"2026-11-{1 + team.pk % 28:02}T00:00Z"),
        )
        seen = [
            observation(
                service_name=name,
                request_model=f"m{team.pk}",
                response_model="",
                duration_ns=team.pk,
            )
            for name in (f"{team.slug}-api", f"other {team.pk}")
        ]
        take(ingest_key(organization), body(*seen, observation(team=department.slug)))
    reassign(organization.pk)
    add_batches(organization.pk)
    refresh(organization.pk)


def queries(client: Client, url: str, asked: dict[str, Any] | None = None) -> int:
    with CaptureQueriesContext(connection) as captured:
        answer = client.get(url) if asked is None else client.post(url, asked)
    assert answer.status_code == 200
    return len(captured)


def asked_often(organization: Organization, client: Client) -> dict[str, int]:
    found = {name: queries(client, reverse(name)) for name in PAGES}
    department = organization.teams.filter(children__isnull=False).first()
    assert department is not None
    found["team"] = queries(client, reverse("team", args=[department.pk]))
    rule = {"team": department.pk, "service_name": "*", "priority": "1"}
    found["preview"] = queries(client, reverse("sources-rule-create"), rule)
    last = AssignmentRule.objects.order_by("-pk")[0]
    found["delete"] = queries(client, reverse("sources-rule-delete", args=[last.pk]))
    return found


def test_the_number_of_queries_does_not_grow_with_the_rows(
    organization: Organization, owner_client: Client
) -> None:
    with time_machine.travel(NOON):
        grow(organization, 2)
        asked_often(organization, owner_client)  # what is remembered from now on
        few = asked_often(organization, owner_client)
        grow(organization, 12)
        assert asked_often(organization, owner_client) == few
