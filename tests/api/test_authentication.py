from __future__ import annotations

from datetime import timedelta

import time_machine
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from rest_framework.throttling import SimpleRateThrottle

from costwatch.accounts.models import ApiToken, Membership, Organization, User
from tests.api.conftest import Reader, reader_for
from tests.factories import NOON, MembershipFactory, OrganizationFactory

BUDGET = {"name": "x", "amount": "1"}


def test_without_a_token_it_says_how_to_get_one(db: None) -> None:
    answer = Client().get("/api/v1/costs")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")


def test_an_unknown_token_is_refused_with_what_was_expected(db: None) -> None:
    answer = Client(headers={"Authorization": "Bearer cwt_guess"}).get("/api/v1/costs")
    assert answer.status_code == 401
    assert "expected Authorization: Bearer cwt_…" in answer.json()["detail"]


def test_a_revoked_token_is_refused(member: User, organization: Organization) -> None:
    token, secret = ApiToken.issue(organization=organization, user=member, name="old")
    ApiToken.objects.update(revoked_at=timezone.now())
    answer = Client(headers={"Authorization": f"Bearer {secret}"}).get("/api/v1/costs")
    assert answer.status_code == 401
    assert f"token {token} was revoked" in answer.json()["detail"]


def test_the_token_of_somebody_who_left_or_was_locked_out_is_refused(
    reader: Reader, member: User
) -> None:
    Membership.objects.filter(user=member).delete()
    assert reader.send("get", "costs")[0] == 403
    User.objects.filter(pk=member.pk).update(is_active=False)
    assert reader.send("get", "costs")[0] == 401


def test_a_token_reads_its_own_organization_also_for_a_person_of_several(
    member: User, organization: Organization
) -> None:
    second = OrganizationFactory(name="AAA first by name")
    MembershipFactory(user=member, organization=second)
    for one in (organization, second):
        assert reader_for(member, one).get("chargeback")["organization"] == one.name


def test_when_a_token_was_used_is_written_once_a_minute(
    reader: Reader, organization: Organization
) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        reader.get("costs")
        clock.shift(timedelta(seconds=59))
        reader.get("costs")
        assert ApiToken.objects.get().last_used_at == NOON
        clock.shift(timedelta(seconds=2))
        reader.get("costs")
        assert ApiToken.objects.get().last_used_at == NOON + timedelta(seconds=61)


def test_a_session_reads_what_the_pages_show_and_writes_only_with_csrf(owner: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    assert client.get("/api/v1/budgets").status_code == 200
    answer = client.post("/api/v1/budgets", BUDGET, content_type="application/json")
    assert answer.status_code == 403
    assert "CSRF" in answer.json()["detail"]


def test_who_asks_too_often_is_told_to_wait(reader: Reader) -> None:
    limit = int(SimpleRateThrottle.THROTTLE_RATES["user"].split("/")[0])
    now = timezone.now().timestamp()
    user = ApiToken.objects.get().user_id
    cache.set(f"throttle_user_{user}", [now] * limit, 60)
    answer = reader.client.get("/api/v1/costs")
    assert answer.status_code == 429
    assert int(answer["Retry-After"]) > 0
