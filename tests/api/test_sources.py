from __future__ import annotations

from decimal import Decimal
from typing import Any

from costwatch.accounts.models import Organization
from costwatch.attribution.assignment import reassign
from costwatch.attribution.models import AssignmentRule
from tests.api.conftest import Reader

NOVEMBER = {"start": "2026-11-01", "end": "2026-12-01"}


def test_the_sources_cost_together_what_everything_costs(
    furnished: Organization, reader: Reader
) -> None:
    rows = reader.get("sources", **NOVEMBER)["results"]
    [everything] = reader.get("costs", **NOVEMBER)["results"]
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal(everything["cost"])
    assert sum(row["calls"] for row in rows) == everything["calls"]
    assert [Decimal(row["cost"]) for row in rows] == sorted(
        (Decimal(row["cost"]) for row in rows), reverse=True
    )
    [chat] = [row for row in rows if row["feature"] == "support chat"]
    assert (chat["team"], chat["reason"], chat["rule_id"]) == ("Chat assistant", "team tag", None)
    assert chat["service"] == "shop"
    assert chat["last_hour"].startswith("2026-11-20T")


def test_a_source_is_there_for_each_team_that_paid_for_it_and_says_why(
    furnished: Organization, reader: Reader
) -> None:
    rule = AssignmentRule.objects.create(
        organization=furnished,
        team=furnished.teams.get(slug="search"),
        priority=7,
        feature="support chat",
        valid_from="2026-11-20T00:00:00Z",
    )
    reassign(furnished.pk)
    rows = reader.get("sources", search="SUPPORT", **NOVEMBER)["results"]
    assert {(row["team"], row["reason"], row["rule_id"]) for row in rows} == {
        ("Chat assistant", "team tag", None),
        ("Search", "rule 7", rule.pk),
    }


def test_only_the_unattributed_are_listed_when_asked(
    furnished: Organization, reader: Reader
) -> None:
    [row] = reader.get("sources", unattributed="true", **NOVEMBER)["results"]
    assert (row["team"], row["team_id"], row["reason"]) == (None, None, "no rule matches")
    [total] = [
        one
        for one in reader.get("costs", group_by="team", **NOVEMBER)["results"]
        if one["team"] is None
    ]
    assert Decimal(row["cost"]) == Decimal(total["cost"]) > 0


def test_pages_follow_each_other_without_gap_or_overlap(
    furnished: Organization, reader: Reader
) -> None:
    whole = reader.get("sources", **NOVEMBER)
    found: list[Any] = []
    page: int | None = 1
    while page is not None:
        answer = reader.get("sources", limit=3, page=page, **NOVEMBER)
        assert answer["count"] == whole["count"] == len(whole["results"])
        found += answer["results"]
        page = answer["next_page"]
    assert found == whole["results"]
    assert reader.get("sources", page=99999, **NOVEMBER)["results"] == []


def test_what_nobody_pays_is_a_row_of_its_own_wherever_teams_are(
    furnished: Organization, reader: Reader
) -> None:
    [costs] = [row for row in reader.get("costs", group_by="team")["results"] if not row["team"]]
    report = reader.get("chargeback", month="2026-11")
    [owed] = [team for team in report["teams"] if team["team_id"] is None]
    assert report["teams"][-1] == owed
    assert Decimal(owed["cost"]) == Decimal(report["unattributed"]) > 0
    theirs = [line for line in report["lines"] if line["team_id"] is None]
    used = sum(Decimal(line["cost"]) for line in theirs if line["kind"] == "usage")
    assert abs(Decimal(costs["cost"]) - used) < Decimal("0.01"), "the rest is of idle devices"


def test_costs_are_grouped_by_the_key_that_they_came_with(
    furnished: Organization, reader: Reader
) -> None:
    [row] = reader.get("costs", group_by="key", **NOVEMBER)["results"]
    [everything] = reader.get("costs", **NOVEMBER)["results"]
    assert row["key"].startswith("tests (cwk_")
    assert row["cost"] == everything["cost"]
