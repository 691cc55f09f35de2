"""Every address, with the ids of somebody else's rows."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from costwatch.accounts.models import ApiToken, AuditEvent, IngestKey, Organization, User
from costwatch.api.scope import OrganizationView
from costwatch.attribution.models import AssignmentRule, Entry
from costwatch.budgets.models import Budget
from costwatch.budgets.reservation_models import Reservation
from costwatch.recommendations.models import Recommendation
from costwatch.reports.models import Month
from tests.factories import NOON, MembershipFactory
from tests.pricing.usage import offering, source, used
from tests.reports.closing import OCTOBER, closed
from tests.web.conftest import ITS_WORDS, client_of

PUBLIC = {"login", "logout"}
METHODS = ("get", "post", "put", "patch", "delete")


def patterns(resolver: URLResolver | None = None) -> Iterator[URLPattern]:
    for one in (resolver or get_resolver()).url_patterns:
        if isinstance(one, URLResolver):
            yield from patterns(one)
        else:
            yield one


def names() -> list[str]:
    return [str(one.name) for one in patterns()]


def is_scoped(one: URLPattern) -> bool:
    view = one.callback
    return getattr(view, "scoped", False) or issubclass(
        getattr(view, "cls", type(None)), OrganizationView
    )


def test_every_address_has_a_scope_or_is_known_to_be_public() -> None:
    assert {str(one.name) for one in patterns() if not is_scoped(one)} == PUBLIC


@pytest.fixture
def theirs(furnished: Organization, owner: User) -> dict[str, Any]:
    """Ids of rows of the furnished organization, by the names that addresses use."""
    budget = Budget.objects.create(
        organization=furnished, name="Secret budget", amount=Decimal(5), currency="USD"
    )
    advice = Recommendation.objects.create(
        organization=furnished,
        kind="prefix_cache",
        layer="serving",
        title="Secret advice",
        advice="…",
        verdict="pays",
        saving_low=Decimal(1),
        saving_high=Decimal(2),
        currency="USD",
        latency_effect="",
        quality_state="exact",
        effort="switch",
        reversible=True,
    )
    token, _ = ApiToken.issue(organization=furnished, user=owner, name="Secret token")
    rule = AssignmentRule.objects.create(
        organization=furnished,
        team=furnished.teams.get(slug="summaries"),
        feature="secret pattern*",
    )
    summaries = source(furnished, furnished.teams.get(slug="summaries"))
    used(summaries, offering(furnished), OCTOBER, output_tokens=1_000)
    statement = closed(furnished, "2026-10", NOON).statements.get(team__slug="summaries")
    return {
        "budget_id": budget.pk,
        "reservation_id": Reservation.objects.create(
            organization=furnished, asked="", answer={}
        ).pk,
        "recommendation_id": advice.pk,
        "token_id": token.pk,
        "rule_id": rule.pk,
        "month": "2026-10",
        "statement_id": statement.pk,
        "key_id": IngestKey.objects.get(organization=furnished).pk,
        "team_id": furnished.teams.get(slug="summaries").pk,
        "call_id": Entry.objects.filter(organization=furnished)[0].call_id,
    }


def addresses(theirs: dict[str, Any]) -> Iterator[tuple[URLPattern, str]]:
    for one in patterns():
        if str(one.name) in PUBLIC:
            continue
        wanted = {name: theirs[name] for name in one.pattern.converters}
        yield one, reverse(str(one.name), kwargs=wanted)


def state_of(organization: Organization) -> tuple[object, ...]:
    """What a stranger could have changed."""
    return (
        Organization.objects.filter(pk=organization.pk).values().get(),
        list(Budget.objects.filter(organization=organization).values()),
        list(Recommendation.objects.filter(organization=organization).values()),
        list(AssignmentRule.objects.filter(organization=organization).values()),
        list(IngestKey.objects.filter(organization=organization).values()),
        list(ApiToken.objects.filter(organization=organization).values()),
        list(Month.objects.filter(organization=organization).values()),
        AuditEvent.objects.filter(organization=organization).count(),
    )


def test_a_stranger_gets_nothing_of_it_from_any_address(
    furnished: Organization, theirs: dict[str, Any], stranger: User
) -> None:
    client = client_of(stranger)
    session = client.session
    session["organization_id"] = furnished.pk  # as if it had been shown before
    session.save()
    before = state_of(furnished)
    asked = {
        "team": theirs["team_id"],
        "organization": furnished.pk,
        "group_by": "team",
        "month": "",
    }
    for one, url in addresses(theirs):
        for method in METHODS:
            answer = getattr(client, method)(url, asked if method in {"get", "post"} else {})
            text = answer.getvalue().decode()
            assert [word for word in ITS_WORDS if word in text] == [], (method, url)
            if one.pattern.converters:
                assert answer.status_code in {403, 404, 405, 415}, (method, url)
    assert state_of(furnished) == before


def test_its_owner_does_see_it(
    furnished: Organization, theirs: dict[str, Any], owner: User
) -> None:
    client = client_of(owner)
    seen = "".join(client.get(url).getvalue().decode() for _, url in addresses(theirs))
    assert [word for word in ITS_WORDS if word not in seen] == []


def test_nobody_gets_in_without_logging_in(db: None, theirs: dict[str, Any]) -> None:
    for _, url in addresses(theirs):
        for method in METHODS:
            answer = getattr(Client(), method)(url)
            if url.startswith("/api/"):
                assert answer.status_code == 401, (method, url)
            else:
                assert answer.status_code == 302, (method, url)
                assert answer["Location"].startswith("/login/"), (method, url)


def test_a_token_of_another_organization_reads_nothing_of_it(
    furnished: Organization, theirs: dict[str, Any], stranger: User
) -> None:
    elsewhere = Organization.objects.get(name="Elsewhere")
    _, secret = ApiToken.issue(organization=elsewhere, user=stranger, name="reader")
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    for one, url in addresses(theirs):
        if url.startswith("/api/"):
            by = "model" if url.endswith("/reconciliation") else "team"
            answer = client.get(url, {"group_by": by})
            if answer.status_code == 405:
                answer = client.post(url, {"cost": "1"}, "application/json")
            assert answer.status_code == (404 if one.pattern.converters else 200), url
            assert not any(word in answer.getvalue().decode() for word in ITS_WORDS), url


def test_someone_of_no_organization_is_told_what_to_do(db: None) -> None:
    person = User.objects.create_user("new@example.org", "pw")
    answer = client_of(person).get("/")
    assert answer.status_code == 403
    assert "Ask an owner" in answer.content.decode()


MEMBERS_MAY_NOT = {
    "budget-create",
    "budget-change",
    "budget-delete",
    "capacity-policy",
    "capacity-pool",
    "capacity-price",
    "exchange-rates-load",
    "price-set",
    "recommendation-status",
    "settings-change-key",
    "settings-content",
    "settings-create-key",
    "settings-create-token",
    "settings-revoke-key",
    "settings-revoke-token",
    "sources-rule-change",
    "sources-rule-create",
    "sources-rule-delete",
    "sources-rule-move",
    "statements-move",
    "statements-reconciliation-fetch",
    "statements-reconciliation-project",
    "statements-reconciliation-upload",
}
# Who may write to a resource, by its path; every other resource is only read.
FINANCE_WRITES = (
    *("assignment-rules", "bill-fetches", "budgets", "exchange-rates", "months", "prices"),
    *("provider-bills", "provider-projects"),
)
OWNERS_WRITE = ("ingest-keys",)


def test_members_read_and_change_nothing(
    furnished: Organization, theirs: dict[str, Any], member: User
) -> None:
    client = client_of(member)
    before = state_of(furnished)
    refused = set()
    for one, url in addresses(theirs):
        assert client.get(url).status_code in {200, 403, 405}, url
        answer = client.post(url, {"name": "x", "amount": "1"})
        if answer.status_code == 403 and not url.startswith("/api/"):
            refused.add(one.name)
    assert refused == MEMBERS_MAY_NOT
    assert state_of(furnished) == before


@pytest.mark.parametrize(
    ("role", "refused_paths"),
    [("member", (*FINANCE_WRITES, *OWNERS_WRITE)), ("finance", OWNERS_WRITE)],
)
def test_the_api_is_written_to_by_those_who_may(
    furnished: Organization, theirs: dict[str, Any], role: str, refused_paths: tuple[str, ...]
) -> None:
    client = client_of(MembershipFactory(organization=furnished, role=role).user)
    keys = list(IngestKey.objects.values())
    refused, tried = set(), set()
    for _, url in addresses(theirs):
        if not url.startswith("/api/v1/"):
            continue
        for method in ("post", "patch", "delete"):
            answer = getattr(client, method)(url, {}, "application/json")
            resource = url.removeprefix("/api/v1/").split("/")[0]
            if answer.status_code != 405:
                tried.add(resource)
            if answer.status_code == 403:
                refused.add(resource)
    assert tried >= refused == set(refused_paths)
    assert list(IngestKey.objects.values()) == keys
