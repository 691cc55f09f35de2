from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import AuditEvent, Membership, Organization
from costwatch.budgets.models import Budget
from tests.factories import MembershipFactory, OrganizationFactory, TeamFactory
from tests.pricing.usage import source
from tests.web.conftest import client_of

GOOD: dict[str, Any] = {
    "name": "Search",
    "amount": "250.50",
    "period": "month",
    "start_day": "1",
    "thresholds": "100, 50 80%",
    "addresses": "ann@example.org; bob@example.org",
    "active": "on",
}


def test_finance_makes_changes_and_deletes_a_budget_and_each_is_recorded(
    organization: Organization,
) -> None:
    team = TeamFactory(organization=organization, name="Search")
    person = MembershipFactory(organization=organization, role=Membership.Role.FINANCE).user
    client = client_of(person)
    assert client.post(reverse("budget-create"), {**GOOD, "team": team.pk}).status_code == 302
    budget = Budget.objects.get()
    assert (budget.amount, budget.currency, budget.team) == (Decimal("250.50"), "USD", team)
    assert budget.thresholds == [50, 80, 100]
    assert budget.addresses == ["ann@example.org", "bob@example.org"]

    change = reverse("budget-change", args=[budget.pk])
    assert 'value="50, 80, 100"' in client.get(change).content.decode()
    client.post(change, {**GOOD, "amount": "99"})
    client.post(reverse("budget-delete", args=[budget.pk]))
    assert not Budget.objects.exists()
    events = AuditEvent.objects.order_by("pk").values_list("action", "actor", "details__amount")
    assert list(events) == [
        ("budget.created", person.pk, "250.5"),
        ("budget.changed", person.pk, "99"),
        ("budget.deleted", person.pk, "99"),
    ]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "", "Give the budget a name"),
        ("amount", "0", "above zero"),
        ("amount", "much", "Enter a number"),
        ("start_day", "29", "expected 1 to 28, found 29"),
        ("forecast_thresholds", "half", "“half” is no threshold"),
        ("thresholds", "", "Give at least one"),
        ("thresholds", "50, most", "“most” is no threshold"),
        ("addresses", "ann", "“ann” is no e-mail address"),
    ],
)
def test_what_can_not_be_saved_is_explained_beside_its_field(
    owner_client: Client, field: str, value: str, said: str
) -> None:
    answer = owner_client.post(reverse("budget-create"), {**GOOD, field: value})
    assert answer.status_code == 400
    assert any(said in error for error in answer.context["form"].errors[field])
    assert said in answer.content.decode()
    assert not Budget.objects.exists()


def test_a_team_of_somebody_else_is_no_choice(owner_client: Client) -> None:
    team = TeamFactory(name="Foreign team")
    answer = owner_client.post(reverse("budget-create"), {**GOOD, "team": team.pk})
    assert answer.status_code == 400
    assert "Foreign team" not in answer.content.decode()


def test_a_source_of_somebody_else_is_no_choice(owner_client: Client) -> None:
    foreign = source(OrganizationFactory())
    answer = owner_client.post(reverse("budget-create"), {**GOOD, "source": foreign.pk})
    assert answer.status_code == 400
    assert "source" in answer.context["form"].errors


def test_a_budget_of_a_model_and_a_week_is_made_and_shown(owner_client: Client) -> None:
    narrowed = {"model": "gpt-4o", "provider": "openai", "period": "week", "start_day": "7"}
    owner_client.post(reverse("budget-create"), {**GOOD, **narrowed, "forecast_thresholds": "100"})
    budget = Budget.objects.get()
    assert (budget.model, budget.period, budget.start_day) == ("gpt-4o", "week", 7)
    assert budget.forecast_thresholds == [100]
    page = owner_client.get(reverse("budgets")).content.decode()
    assert "gpt-4o, openai" in page
    assert "a week" in page


def test_the_list_says_which_budget_is_overspent_and_when_nothing_is_known(
    furnished: Organization, owner_client: Client
) -> None:
    for name, amount in (("tiny", "0.000001"), ("ample", "100000")):
        Budget.objects.create(
            organization=furnished, name=name, amount=Decimal(amount), currency="USD"
        )
    context = owner_client.get(reverse("budgets")).context
    assert {one.budget.name: one.level for one in context["standings"]} == {
        "tiny": "bad",
        "ample": "good",
    }
    assert "not yet" in owner_client.get(reverse("budgets")).content.decode(), "too young"
