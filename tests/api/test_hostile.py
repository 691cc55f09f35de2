"""Every resource that can be read, with every parameter that the schema names, and what nobody means to ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator

from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.api.urls import urlpatterns
from costwatch.attribution.ingest import take
from costwatch.attribution.models import AssignmentRule, Entry
from costwatch.budgets.models import Budget
from tests.api.conftest import Reader, reader_for
from tests.factories import TeamFactory, body, ingest_key, observation
from tests.web.hostile import NINES, VALUES

EVERYWHERE = (
    *("start", "end", "month", "team", "cursor", "limit", "page", "search", "preview"),
    *("unattributed", "lang", "version"),
)


def readable() -> Iterator[tuple[str, list[str]]]:
    """Resources with what the schema says of them, and what others are asked with."""
    schema = SchemaGenerator(urlconf="costwatch.urls").get_schema(request=None, public=True)
    for path, methods in schema["paths"].items():
        if "get" not in methods:
            continue
        named = [
            one["name"] for one in methods["get"].get("parameters", []) if one["in"] == "query"
        ]
        yield path.removeprefix("/api/v1/"), list(dict.fromkeys([*named, *EVERYWHERE]))
    yield "schema", [*EVERYWHERE]


ONLY_WRITTEN = 3  # /budget-decisions and what becomes of them


def test_every_resource_is_asked() -> None:
    assert len(list(readable())) == len(urlpatterns) - ONLY_WRITTEN


@pytest.mark.parametrize(("path", "parameters"), list(readable()))
def test_no_resource_breaks_whatever_it_is_asked_with(
    organization: Organization, owner: User, path: str, parameters: list[str]
) -> None:
    reader = reader_for(owner, organization)
    budget = Budget.objects.create(organization=organization, name="x", amount=1, currency="USD")
    team = TeamFactory(organization=organization)
    rule = AssignmentRule.objects.create(organization=organization, team=team)
    key = ingest_key(organization)
    take(key, body(observation(at=timezone.now())))
    ids = {
        "budget_id": budget.pk,
        "rule_id": rule.pk,
        "key_id": key.pk,
        "month": f"{timezone.now():%Y-%m}",
        "statement_id": 1,
        "call_id": Entry.objects.get(organization=organization).call_id,
    }
    url = f"/api/v1/{path.format(**ids)}"
    reader.client.raise_request_exception = False
    for parameter in parameters:
        for value in VALUES:
            answer = reader.client.get(url, {parameter: value})
            assert answer.status_code in {200, 400, 404}, (parameter, value[:40])
            if "\0" in value:
                assert answer.status_code == 400
                assert "expected text without NUL characters" in answer.getvalue().decode()


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("chargeback", "month", "9999-12"),
        ("chargeback", "month", "0001-01"),
        ("chargeback", "month", "0001-02"),
        ("costs", "start", "0001-01-01T00:00:00+23:00"),
        ("costs", "start", "0001-01-01"),
        ("costs", "end", "9999-12-31"),
        ("capacity", "end", "2201-01-01"),
    ],
)
def test_a_time_out_of_reach_is_explained(
    organization: Organization, reader: Reader, path: str, name: str, value: str
) -> None:
    [said] = reader.refused(path, **{name: value})[name]
    assert repr(value) in said
    assert "expected a year from 2000 to 2200" in said


def test_a_cursor_of_the_year_one_is_no_cursor(organization: Organization, reader: Reader) -> None:
    [cursor] = [value for value in VALUES if value.startswith("MDAw")]
    assert (
        "expected the next_cursor of a page" in reader.refused("calls", cursor=cursor)["cursor"][0]
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("thresholds", list(range(1, 22))),
        ("thresholds", [NINES]),
        ("addresses", [f"a{n}@example.org" for n in range(51)]),
        ("addresses", [f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.org"]),
        ("team", "a\0b"),
        ("name", "a\0b"),
        ("amount", NINES),
    ],
)
def test_a_budget_has_bounds(
    organization: Organization, finance: Reader, field: str, value: object
) -> None:
    TeamFactory(organization=organization)
    good = {"name": "x", "amount": "1"}
    status, said = finance.send("post", "budgets", {**good, field: value})
    assert status == 400
    assert list(said) == [field]
    assert not Budget.objects.exists()


def test_a_number_beyond_all_numbers_is_recorded_as_what_was_saved(
    organization: Organization, finance: Reader
) -> None:
    answer = finance.client.post(
        "/api/v1/budgets", '{"name": 1e400, "amount": 1}', content_type="application/json"
    )
    assert answer.status_code == 201
    assert AuditEvent.objects.get().details == {"name": "inf", "amount": "1.000000"}


RULE = ("team", "priority", "service_name", "feature", "key", "valid_from", "valid_until")


@pytest.mark.parametrize("field", RULE)
def test_no_rule_breaks_whatever_it_is_made_of(
    organization: Organization, finance: Reader, field: str
) -> None:
    team = TeamFactory(organization=organization)
    finance.client.raise_request_exception = False
    for value in (*VALUES, None, [], {}, 10**400, True):
        for path in ("assignment-rules?preview=true", "assignment-rules"):
            status, _ = finance.send("post", path, {"team": team.slug, field: value})
            assert status in {200, 201, 400}, (field, str(value)[:40])
