"""Who chooses that prompts and answers are stored, and who reads them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
import time_machine
from celery import current_app
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoCaptureOnCommitCallbacks

from costwatch.accounts.models import AuditEvent, Membership, Organization, Team, User
from costwatch.attribution import calls, content
from costwatch.attribution.content import MOST_BYTES
from costwatch.attribution.models import Content, Entry
from tests.attribution.test_content import PROMPT, said_at, send
from tests.collectors.dialects.test_content import CALL, SECRET
from tests.factories import NOON, MembershipFactory, TeamFactory, ingest_key
from tests.web.conftest import client_of
from tests.web.test_pages import text_of

SCRIPT = "</pre><script>alert(1)</script>"


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
    said = {"gen_ai.output.messages": f'[{{"role": "assistant", "content": "{SCRIPT}"}}]'}
    send(ingest_key(organization, team=team), said_at(NOON, {**PROMPT, **said}))
    found: UUID = Entry.objects.get(organization=organization).call_id
    return found


def shown(user: User, call_id: UUID) -> str:
    answer = client_of(user).get(reverse("call", args=[call_id]))
    return str(answer.content.decode())


# Reading


def test_an_owner_and_the_team_that_pays_read_a_call(
    organization: Organization, owner: User, team: Team, call_id: UUID
) -> None:
    of_team = MembershipFactory(organization=organization, team=team).user
    for reader in (owner, of_team):
        page = shown(reader, call_id)
        assert SECRET in page
        assert "<summary>As client sent it: 2 parts</summary>" in page


def test_nobody_else_reads_it(
    organization: Organization, member: User, stranger: User, team: Team, call_id: UUID
) -> None:
    elsewhere = Team.objects.create(organization=organization, name="Summaries")
    below = Team.objects.create(organization=organization, name="Ranking", parent=team)
    others = [MembershipFactory(organization=organization, team=one) for one in (elsewhere, below)]
    finance = MembershipFactory(organization=organization, role=Membership.Role.FINANCE)
    for reader in (member, finance.user, *(one.user for one in others)):
        page = shown(reader, call_id)
        assert "nothing of it is shown to you" in page
        assert SECRET not in page
    assert client_of(stranger).get(reverse("call", args=[call_id])).status_code == 404


def test_what_nobody_pays_for_only_owners_read(
    organization: Organization, owner: User, member: User
) -> None:
    content.set_retention(organization.pk, 30)
    send(ingest_key(organization), said_at(NOON))
    call_id = Entry.objects.get(organization=organization).call_id
    assert SECRET in shown(owner, call_id)
    assert SECRET not in shown(member, call_id)


def test_what_was_said_is_text_and_never_markup(owner: User, call_id: UUID) -> None:
    page = shown(owner, call_id)
    assert SCRIPT not in page
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_page_with_content_is_kept_by_no_cache(owner: User, call_id: UUID) -> None:
    answer = client_of(owner).get(reverse("call", args=[call_id]))
    assert "no-store" in answer["Cache-Control"]


def test_long_texts_are_folded_and_say_what_is_missing(
    organization: Organization, owner: User
) -> None:
    content.set_retention(organization.pk, 30)
    long = {"gen_ai.prompt": "river " * MOST_BYTES}
    send(ingest_key(organization), said_at(NOON, {**CALL, **long}))
    page = shown(owner, Entry.objects.get(organization=organization).call_id)
    assert page.count("<details>") == 1
    assert "Cut: 1.2\xa0MB more were sent and not stored." in page


def test_where_it_is_not_stored_the_page_says_nothing_of_it(
    organization: Organization, owner: User, call_id: UUID
) -> None:
    content.set_retention(organization.pk, None)
    page = shown(owner, call_id)
    assert "Prompt and answer" not in page
    assert SECRET not in page


def test_a_call_without_content_says_so(organization: Organization, owner: User) -> None:
    send(ingest_key(organization), said_at(NOON))
    content.set_retention(organization.pk, 30)
    call_id = Entry.objects.get(organization=organization).call_id
    assert "Nothing is stored of this call" in text_of(shown(owner, call_id))


# Choosing


def choose(client: Client, **typed: object) -> int:
    return int(client.post(reverse("settings-content"), typed).status_code)


def test_an_owner_turns_it_on_lowers_it_and_turns_it_off(
    organization: Organization, owner_client: Client
) -> None:
    for typed, days in (
        ({"stored": "yes", "days": 30}, 30),
        ({"stored": "yes", "days": 7}, 7),
        ({"stored": "yes", "days": 7}, 7),  # nothing changed, nothing recorded
        ({"stored": "no", "days": 7}, None),
    ):
        assert choose(owner_client, **typed) == 302
        organization.refresh_from_db()
        assert organization.content_retention_days == days
        assert (organization.content_since is None) == (days is None)
    recorded = AuditEvent.objects.filter(action="content.retention_changed").order_by("pk")
    assert [
        (one.details["content_retention_days_before"], one.details["content_retention_days"])
        for one in recorded
    ] == [(None, 30), (30, 7), (7, None)]


@pytest.mark.parametrize(
    ("days", "said"),
    [("", "Say for how many days"), ("0", "greater than"), ("366", "less than"), ("x", "whole")],
)
def test_days_that_are_none_are_explained(
    organization: Organization, owner_client: Client, days: str, said: str
) -> None:
    answer = owner_client.post(reverse("settings-content"), {"stored": "yes", "days": days})
    assert answer.status_code == 400
    [error] = answer.context["form"].errors["days"]
    assert said in error
    organization.refresh_from_db()
    assert organization.content_retention_days is None


@pytest.mark.parametrize("role", ["finance", "member"])
def test_only_owners_choose(organization: Organization, role: str) -> None:
    client = client_of(MembershipFactory(organization=organization, role=role).user)
    assert choose(client, stored="yes", days=30) == 403
    assert client.get(reverse("settings-content")).status_code == 403
    assert "not stored" in client.get(reverse("settings")).content.decode()
    organization.refresh_from_db()
    assert organization.content_retention_days is None


def test_the_page_says_what_will_be_deleted_before_it_is_saved(owner_client: Client) -> None:
    page = text_of(owner_client.get(reverse("settings-content")).content.decode())
    assert "Fewer days delete what is older, and “not stored” deletes everything" in page


@pytest.fixture
def at_once() -> Iterator[None]:
    """Tasks run where they are sent."""
    current_app.conf.task_always_eager = True
    yield
    current_app.conf.task_always_eager = False


@pytest.mark.parametrize("typed", [{"stored": "yes", "days": 7}, {"stored": "no"}])
def test_saving_deletes_what_is_past(
    organization: Organization,
    owner_client: Client,
    call_id: UUID,
    at_once: None,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    typed: dict[str, object],
) -> None:
    assert Content.objects.count() == 1
    eight_days_on = time_machine.travel(NOON + timedelta(days=8), tick=False)
    with eight_days_on, django_capture_on_commit_callbacks(execute=True):
        choose(owner_client, **typed)
    assert not Content.objects.exists()
    assert calls.detail(organization, call_id) is not None
