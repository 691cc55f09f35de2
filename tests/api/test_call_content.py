"""GET /calls/{call_id}/content"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
import time_machine

from costwatch.accounts.models import Membership, Organization, Team, User
from costwatch.attribution import content
from costwatch.attribution.content import MOST_BYTES, MOST_SHOWN
from costwatch.attribution.models import Content, Entry
from tests.api.conftest import Reader, reader_for
from tests.attribution.test_content import PROMPT, said_at, send
from tests.collectors.dialects.test_content import CALL, SECRET
from tests.factories import NOON, MembershipFactory, TeamFactory, ingest_key


@pytest.fixture(autouse=True)
def _at_noon() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def team(organization: Organization) -> Team:
    return TeamFactory(organization=organization, name="Search")


@pytest.fixture
def call_id(organization: Organization, team: Team) -> UUID:
    """Of a call that Search pays for, with its prompt."""
    content.set_retention(organization.pk, 30)
    resource = {"service.name": "shop"}
    send(ingest_key(organization, team=team), said_at(NOON), resource=resource)
    found: UUID = Entry.objects.get(organization=organization).call_id
    return found


def test_an_owner_and_the_team_that_pays_read_what_was_said(
    organization: Organization, owner: User, team: Team, call_id: UUID
) -> None:
    of_team = MembershipFactory(organization=organization, team=team).user
    for user in (owner, of_team):
        assert reader_for(user, organization).get(f"calls/{call_id}/content") == {
            "results": [
                {
                    "vantage": "client",
                    "service_name": "shop",
                    "dialect": "otel_genai",
                    "parts": [{"by": "gen_ai.prompt", "text": SECRET, "left_out_bytes": 0}],
                }
            ]
        }


def test_others_of_the_organization_are_told_who_may(
    organization: Organization, reader: Reader, finance: Reader, call_id: UUID
) -> None:
    elsewhere = TeamFactory(organization=organization, name="Summaries")
    other = reader_for(
        MembershipFactory(organization=organization, team=elsewhere).user, organization
    )
    for one in (reader, finance, other):
        status, answer = one.send("get", f"calls/{call_id}/content")
        assert status == 403
        assert "the members of the team that pays" in answer["detail"]


def test_an_owner_of_another_organization_finds_no_such_call(stranger: User, call_id: UUID) -> None:
    elsewhere = Organization.objects.get(name="Elsewhere")
    status, answer = reader_for(stranger, elsewhere).send("get", f"calls/{call_id}/content")
    assert status == 404
    assert SECRET not in str(answer)


def test_who_left_the_team_reads_it_no_longer(
    organization: Organization, team: Team, call_id: UUID
) -> None:
    membership = MembershipFactory(organization=organization, team=team)
    reader = reader_for(membership.user, organization)
    assert reader.send("get", f"calls/{call_id}/content")[0] == 200
    Membership.objects.filter(pk=membership.pk).update(team=None)
    assert reader.send("get", f"calls/{call_id}/content")[0] == 403


def test_what_is_stored_no_longer_is_not_read(
    organization: Organization, owner: User, call_id: UUID
) -> None:
    content.set_retention(organization.pk, None)
    assert Content.objects.exists()  # no worker has come by yet
    assert reader_for(owner, organization).get(f"calls/{call_id}/content") == {"results": []}


def test_it_is_kept_by_no_cache(organization: Organization, owner: User, call_id: UUID) -> None:
    client = reader_for(owner, organization).client
    assert "no-store" in client.get(f"/api/v1/calls/{call_id}/content")["Cache-Control"]


def test_a_call_that_is_none_is_not_found(organization: Organization, owner: User) -> None:
    status, _ = reader_for(owner, organization).send("get", f"calls/{uuid4()}/content")
    assert status == 404


def test_an_answer_has_bounds(organization: Organization, owner: User) -> None:
    content.set_retention(organization.pk, 30)
    long = {
        **PROMPT,
        **CALL,
        "gen_ai.prompt": "a" * (MOST_BYTES + 1),
        "gen_ai.response.id": "r" * 30,
    }
    send(
        ingest_key(organization), *(said_at(NOON, long, number=n) for n in range(1, MOST_SHOWN + 3))
    )
    call_id = Entry.objects.filter(organization=organization, sign=1).latest("started_at").call_id
    results = reader_for(owner, organization).get(f"calls/{call_id}/content")["results"]
    assert len(results) == MOST_SHOWN
    assert {(len(p["text"]), p["left_out_bytes"]) for one in results for p in one["parts"]} == {
        (MOST_BYTES, 1)
    }
