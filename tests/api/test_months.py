"""Months, statements and chargeback files by API: who may, what is refused, what is sent twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
import time_machine

from costwatch.accounts.models import Answer, AuditEvent, Organization, User
from costwatch.pricing.models import Meter
from costwatch.reports.models import Closing
from tests.api.conftest import Reader, reader_for
from tests.factories import TeamFactory
from tests.pricing.usage import offering, source, token_price, used
from tests.reports.closing import IN_NOVEMBER, OCTOBER, closed


@pytest.fixture
def october(organization: Organization) -> Organization:
    team = TeamFactory(organization=organization, name="Search", slug="search")
    token_price(organization, Meter.OUTPUT_TOKENS, "2.50")
    for feature in ("a", "b", "c"):
        used(
            source(organization, team, feature),
            offering(organization),
            OCTOBER,
            output_tokens=1_000_000,
        )
    used(source(organization), offering(organization), OCTOBER, output_tokens=2_000_000)
    return organization


def move(reader: Reader, state: str, key: str = "", **more: Any) -> tuple[int, Any, dict[str, str]]:
    with time_machine.travel(IN_NOVEMBER):
        answer = reader.client.post(
            "/api/v1/months/2026-10",
            {"state": state, **more},
            content_type="application/json",
            headers={"Idempotency-Key": key} if key else {},
        )
    return answer.status_code, json.loads(answer.getvalue()), dict(answer.headers)


def test_finance_takes_a_month_through_review_to_its_end(
    october: Organization, finance: Reader
) -> None:
    assert move(finance, "review")[1]["state"] == "review"
    status, month, _ = move(finance, "closed")
    assert (status, month["state"], month["total"], month["statements"]) == (
        200,
        "closed",
        "12.50",
        2,
    )
    assert move(finance, "closed")[1]["sha256"] == month["sha256"], "safe twice"
    assert Closing.objects.count() == 1
    status, refused, _ = move(finance, "open")
    assert (status, refused) == (
        409,
        {"detail": "2026-10 is closed: reopening it needs a reason"},
    )
    assert move(finance, "open", reason="a wrong rule")[1]["state"] == "open"


def test_what_can_not_be_done_yet_is_explained(october: Organization, finance: Reader) -> None:
    status, refused, _ = move(finance, "closed")
    assert status == 409
    assert refused["detail"] == "2026-10 is open; expected it to be review, to close it"


def test_a_member_reads_and_moves_nothing_and_a_stranger_sees_nothing(
    october: Organization, reader: Reader, stranger: User
) -> None:
    assert move(reader, "review")[0] == 403
    statement = closed(october, "2026-10").statements.first()
    assert statement is not None
    assert reader.get(f"statements/{statement.pk}")["total"] == "7.50"
    other = reader_for(stranger, stranger.memberships.get().organization)
    assert move(other, "open", reason="mine")[0] == 404
    for path in (
        "months/2026-10",
        f"statements/{statement.pk}",
        f"statements/{statement.pk}/lines",
    ):
        assert other.client.get(f"/api/v1/{path}").status_code == 404
    assert other.get("statements")["results"] == other.get("months")["results"] == []


def test_a_write_with_a_key_is_done_once(october: Organization, finance: Reader) -> None:
    first = move(finance, "review", "k-1")
    again = move(finance, "review", "k-1")
    assert again[:2] == first[:2]
    assert "Idempotency-Replayed" not in first[2]
    assert again[2]["Idempotency-Replayed"] == "true"
    assert AuditEvent.objects.filter(action="month.reviewed").count() == 1
    assert move(finance, "closed", "k-1")[0] == 422, "the key is another request's"
    assert move(finance, "closed", "k" * 256)[0] == 400


def test_what_was_refused_may_be_tried_again_with_its_key(
    october: Organization, finance: Reader
) -> None:
    assert move(finance, "closed", "k-2")[0] == 409
    move(finance, "review")
    assert move(finance, "closed", "k-2")[0] == 200


def test_a_key_belongs_to_who_sent_it(october: Organization, finance: Reader, owner: User) -> None:
    move(finance, "review", "k-3")
    other = move(reader_for(owner, october), "closed", "k-3")
    assert other[0] == 200
    assert Answer.objects.filter(key="k-3").count() == 2


def test_months_say_where_they_stand(october: Organization, reader: Reader) -> None:
    with time_machine.travel(IN_NOVEMBER):
        told = [
            (one["month"], one["state"], one["is_over"], one["waits_for"], one["total"])
            for one in reader.get("months")["results"]
        ]
    assert told == [
        ("2026-10", "open", True, None, None),
        ("2026-11", "open", False, "2026-10", None),
    ]


def test_statements_and_their_lines_are_read_page_by_page(
    october: Organization, reader: Reader
) -> None:
    closed(october, "2026-10")
    page = reader.get("statements", month="2026-10", limit=1)
    assert [one["team"] for one in page["results"]] == ["unattributed"]
    [search] = reader.get("statements", cursor=page["next_cursor"])["results"]
    assert (search["team"], search["total"], search["lines"], search["in_force"]) == (
        "Search", "7.50", 3, True,
    )  # fmt: skip
    path = f"statements/{search['id']}/lines"
    first = reader.get(path, limit=2)
    last = reader.get(path, limit=2, cursor=first["next_cursor"])
    assert [one["feature"] for one in (*first["results"], *last["results"])] == ["a", "b", "c"]
    assert last["next_cursor"] is None
    assert "expected the next_cursor" in reader.refused(path, cursor="x")["cursor"][0]
    assert reader.get("statements", team="search")["results"] == [search]


def test_what_a_caller_has_already_is_not_sent_again(october: Organization, reader: Reader) -> None:
    closing = closed(october, "2026-10")
    statement = closing.statements.first()
    assert statement is not None
    paths = ("statements", f"statements/{statement.pk}", f"statements/{statement.pk}/lines",
             "chargeback?month=2026-10&format=csv")  # fmt: skip
    for path in paths:
        answer = reader.client.get(f"/api/v1/{path}")
        known = {"If-None-Match": answer["ETag"]}
        again = reader.client.get(f"/api/v1/{path}", headers=known)
        assert (again.status_code, again.getvalue()) == (304, b"")
    with time_machine.travel(IN_NOVEMBER):
        from costwatch.reports import close

        close.reopen(october, "2026-10", None, "to look again")
    changed = reader.client.get(f"/api/v1/statements/{statement.pk}", headers=known)
    assert changed.status_code == 200
    assert json.loads(changed.getvalue())["in_force"] is False


def test_a_closed_months_files_keep_their_bytes(october: Organization, reader: Reader) -> None:
    closed(october, "2026-10")
    url = "/api/v1/chargeback?month=2026-10&format="
    before = {name: reader.client.get(url + name).getvalue() for name in ("json", "csv")}
    token_price(october, Meter.OUTPUT_TOKENS, "9")
    october.teams.update(name="Discovery")
    Organization.objects.update(name="Acme Holding")
    assert {name: reader.client.get(url + name).getvalue() for name in before} == before
