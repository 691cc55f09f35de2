from __future__ import annotations

from decimal import Decimal

import pytest

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.budgets.models import Budget
from tests.api.conftest import Reader
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.usage import source


def test_a_budget_is_made_read_changed_and_deleted(
    furnished: Organization, finance: Reader
) -> None:
    status, made = finance.send(
        "post", "budgets", {"name": "Search", "team": "search", "amount": "12.5"}
    )
    assert status == 201
    assert (made["team"], made["amount"], made["currency"]) == ("search", "12.500000", "USD")
    assert made["thresholds"] == [50, 80, 100]
    assert finance.get("budgets")["results"] == [made]
    assert made["state"]["forecast"] is None, "two days are too few"
    [spent] = finance.get("costs", team="search")["results"]
    assert Decimal(made["state"]["spent"]) == Decimal(spent["cost"])
    assert made["state"]["unpriced_calls"] == spent["unpriced_calls"] > 0

    path = f"budgets/{made['id']}"
    status, changed = finance.send("patch", path, {"amount": "0.000001", "thresholds": [90, 10]})
    assert status == 200
    assert changed["state"]["crossed"] == [10, 90] == changed["thresholds"]
    assert changed["name"] == "Search"
    assert finance.get(path) == changed
    assert finance.send("delete", path) == (204, None)
    assert finance.send("get", path)[0] == 404
    actions = AuditEvent.objects.filter(action__startswith="budget.").order_by("pk")
    assert [event.action.split(".")[1] for event in actions] == ["created", "changed", "deleted"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount": "1"}, "name"),
        ({"name": "x"}, "amount"),
        ({"name": "x", "amount": "0"}, "amount"),
        ({"name": "x", "amount": "1", "team": "elsewhere"}, "team"),
        ({"name": "x", "amount": "1", "thresholds": []}, "thresholds"),
        ({"name": "x", "amount": "1", "thresholds": [0]}, "thresholds"),
        ({"name": "x", "amount": "1", "addresses": ["ann"]}, "addresses"),
        ({"name": "x", "amount": "1", "period": "year"}, "period"),
        ({"name": "x", "amount": "1", "period": "week", "start_day": 8}, "start_day"),
        ({"name": "x", "amount": "1", "start_day": 29}, "start_day"),
        ({"name": "x", "amount": "1", "forecast_thresholds": [0]}, "forecast_thresholds"),
        ({"name": "x", "amount": "1", "source": 10**9}, "source"),
    ],
)
def test_what_can_not_be_a_budget_is_refused_by_field(
    organization: Organization, finance: Reader, body: dict[str, object], field: str
) -> None:
    TeamFactory(name="elsewhere")
    status, said = finance.send("post", "budgets", body)
    assert status == 400
    assert list(said) == [field]
    assert not Budget.objects.exists()


def test_a_source_of_another_organization_is_no_scope(
    organization: Organization, finance: Reader
) -> None:
    foreign = source(OrganizationFactory())
    status, said = finance.send(
        "post", "budgets", {"name": "x", "amount": "1", "source": foreign.pk}
    )
    assert (status, list(said)) == (400, ["source"])


def test_a_change_of_the_period_keeps_its_first_day_within_it(
    organization: Organization, finance: Reader
) -> None:
    fields = {"name": "x", "amount": "1", "start_day": 15, "model": "gpt-4o"}
    _, made = finance.send("post", "budgets", fields)
    assert (made["period"], made["start_day"], made["model"]) == ("month", 15, "gpt-4o")
    status, said = finance.send("patch", f"budgets/{made['id']}", {"period": "week"})
    assert (status, list(said)) == (400, ["start_day"])
    status, _ = finance.send("patch", f"budgets/{made['id']}", {"period": "week", "start_day": 7})
    assert status == 200


def test_what_only_costwatch_decides_is_not_taken_from_the_caller(
    organization: Organization, finance: Reader
) -> None:
    _, made = finance.send(
        "post", "budgets", {"name": "x", "amount": "1", "currency": "EUR", "id": 99}
    )
    assert made["currency"] == "USD"
    assert made["id"] != 99
