from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from costwatch.accounts.models import Organization
from costwatch.api.costs import DIMENSIONS, decimal_text
from costwatch.domain.periods import month_of
from costwatch.pricing import cost
from tests.api.conftest import Reader
from tests.factories import NOON

METERS = ("input_tokens", "cache_read_input_tokens", "output_tokens")
DAYS = {"start": "2026-11-19", "end": "2026-11-21"}


def test_however_costs_are_cut_they_add_up_to_the_same(
    furnished: Organization, reader: Reader
) -> None:
    [whole] = reader.get("costs", **DAYS)["results"]
    assert Decimal(whole["cost"]) > 0
    for group_by in (*DIMENSIONS[:-1], "team,model", "provider,feature,environment"):
        for interval in ("none", "day", "hour", "month"):
            rows = reader.get("costs", group_by=group_by, interval=interval, **DAYS)["results"]
            assert sum(Decimal(row["cost"]) for row in rows) == Decimal(whole["cost"]), group_by
            for name in ("calls", "unpriced_calls", *METERS):
                assert sum(row[name] for row in rows) == whole[name], (group_by, name)
            device = sum(Decimal(row["device_seconds"]) for row in rows)
            assert device == Decimal(whole["device_seconds"])


def test_rows_carry_only_what_they_were_grouped_by(furnished: Organization, reader: Reader) -> None:
    rows = reader.get("costs", group_by="team,model", interval="day", **DAYS)["results"]
    row = next(row for row in rows if row["team"] == "Summaries")
    assert row["team_id"] == furnished.teams.get(slug="summaries").pk
    assert row["model"] == "claude-sonnet-4-5"
    assert row["start"] in {"2026-11-19T00:00:00Z", "2026-11-20T00:00:00Z"}
    assert not {"feature", "customer", "provider", "source", "meter"} & set(row)
    assert {row["team"] for row in rows if row["team_id"] is None} == {None}, "unattributed"


def test_a_department_is_asked_for_by_slug_or_id_and_includes_its_teams(
    furnished: Organization, reader: Reader
) -> None:
    product = furnished.teams.get(slug="product")
    by_slug = reader.get("costs", group_by="team", team="product", **DAYS)
    assert {row["team"] for row in by_slug["results"]} == {"Chat assistant", "Summaries", "Search"}
    assert reader.get("costs", group_by="team", team=product.pk, **DAYS) == by_slug


def test_days_are_those_of_the_organization(furnished: Organization, reader: Reader) -> None:
    furnished.time_zone = "America/New_York"
    furnished.save()
    rows = reader.get("costs", interval="day", start="2026-11-19", end="2026-11-21")["results"]
    assert {row["start"] for row in rows} <= {"2026-11-19T05:00:00Z", "2026-11-20T05:00:00Z"}


def test_a_time_is_a_whole_edge_too(furnished: Organization, reader: Reader) -> None:
    edges = ("2026-11-19T00:00:00Z", "2026-11-19T13:00:00Z", "2026-11-20T23:00:00+00:00")
    parts = [
        reader.get("costs", start=start, end=end)["results"][0]["calls"]
        for start, end in ((edges[0], edges[1]), (edges[1], edges[2]))
    ]
    assert sum(parts) == reader.get("costs", start=edges[0], end=edges[2])["results"][0]["calls"]


def test_without_dates_it_is_this_month(furnished: Organization, reader: Reader) -> None:
    month = cost.total(furnished, month_of(NOON, furnished.time_zone))
    assert reader.get("costs")["results"][0]["calls"] == month.calls


def test_what_was_found_and_what_was_wanted_is_said(
    furnished: Organization, reader: Reader
) -> None:
    for asked, name, said in (
        ({"start": "yesterday"}, "start", "'yesterday': expected a date such as 2026-11-01"),
        ({"start": "2026-11-09", "end": "2026-11-09"}, "end", "is not after the start"),
        ({"group_by": "team,colour"}, "group_by", "'colour': expected some of team, feature"),
        ({"interval": "week"}, "interval", "'week': expected one of none, hour, day, month"),
        ({"team": "nobody"}, "team", "'nobody': expected the slug or id of a team of Acme"),
    ):
        assert said in reader.refused("costs", **asked)[name][0]


@given(st.integers(-(10**30), 10**30), st.integers(1, 12))
def test_whole_nanoseconds_become_a_decimal_without_losing_a_digit(count: int, places: int) -> None:
    assert Fraction(decimal_text(count, places)) == Fraction(count, 10**places)
