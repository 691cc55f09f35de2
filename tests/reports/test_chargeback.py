import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.domain.periods import month_of
from costwatch.pricing import cost
from costwatch.pricing.models import Meter
from costwatch.reports.chargeback import chargeback
from costwatch.reports.exports import cells
from costwatch.reports.exports import csv as csv_export
from costwatch.reports.exports import json as json_export
from tests.factories import OrganizationFactory, TeamFactory
from tests.pricing.usage import HOUR, device_price, offering, source, token_price, used

NOVEMBER = month_of(date(2026, 11, 1), "UTC")


@pytest.fixture
def month(organization: Organization) -> Organization:
    """Search bought tokens and ran its own machine; somebody unknown did too."""
    search = TeamFactory(organization=organization, name="Search", cost_centre="CC-1")
    token_price(organization, Meter.INPUT_TOKENS, "2.50")
    token_price(organization, Meter.OUTPUT_TOKENS, "10")
    device_price(organization, "cpu", "3.60")
    bought = offering(organization)
    used(source(organization, search), bought, input_tokens=1_234_567, output_tokens=1_000)
    used(
        source(organization, search),
        offering(organization, "costwatch", "small", device_type="cpu"),
        device_ns=1_500_000_000,
        input_tokens=77,
    )
    used(source(organization), bought, input_tokens=2)
    used(source(organization), offering(organization, model="gpt-99"), output_tokens=5, calls=2)
    return organization


def test_a_month_is_charged_by_team_model_and_meter(month: Organization) -> None:
    found = chargeback(month, NOVEMBER, places=6)
    told = [
        (x.team, x.model, x.meter, x.quantity, x.unit_price, x.unit_label, x.state, x.cost)
        for x in found.lines
    ]
    million = "1,000,000 tokens"
    assert told == [
        ("Search", "small", "device_ns", 1_500_000_000, Decimal("3.6"), "device-hour", "known", Decimal("0.001500")),
        ("Search", "gpt-4o", "input_tokens", 1_234_567, Decimal("2.5"), million, "known", Decimal("3.086418")),
        ("Search", "gpt-4o", "output_tokens", 1_000, Decimal(10), million, "known", Decimal("0.010000")),
        ("unattributed", "gpt-4o", "input_tokens", 2, Decimal("2.5"), million, "known", Decimal("0.000005")),
        ("unattributed", "gpt-99", "output_tokens", 5, None, "", "unknown", Decimal(0)),
    ]  # fmt: skip
    assert (found.month, found.currency, found.unpriced_lines) == ("2026-11", "USD", 1)
    assert found.total == Decimal("3.097923")
    assert found.unattributed == Decimal("0.000005")
    assert [(t.team, t.cost_centre, t.cost) for t in found.teams] == [
        ("Search", "CC-1", Decimal("3.097918")),
        ("unattributed", "", Decimal("0.000005")),
    ]


def test_each_price_that_held_has_its_own_line(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    token_price(organization, Meter.OUTPUT_TOKENS, "3", start=HOUR)
    for hour in (HOUR, HOUR - timedelta(hours=1)):
        used(source(organization), offering(organization), hour, output_tokens=1_000_000)
    lines = chargeback(organization, NOVEMBER).lines
    assert [(line.quantity, line.unit_price, line.cost) for line in lines] == [
        (1_000_000, 1, 1),
        (1_000_000, 3, 3),
    ]


def test_the_months_before_and_after_are_not_in_it(organization: Organization) -> None:
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    for hour in (NOVEMBER.start - timedelta(hours=1), NOVEMBER.end):
        used(source(organization), offering(organization), hour, output_tokens=1_000_000)
    empty = chargeback(organization, NOVEMBER)
    assert (list(empty.lines), empty.total, empty.unattributed) == ([], 0, 0)


def test_another_organization_is_not_in_it(month: Organization) -> None:
    assert list(chargeback(OrganizationFactory(), NOVEMBER).lines) == []


class Sums(TestCase):
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9), st.integers(0, 4))
    def test_rounded_lines_sum_to_the_rounded_total(self, tokens: list[int], places: int) -> None:
        organization = OrganizationFactory()
        token_price(organization, Meter.INPUT_TOKENS, "3.333333")
        for n, count in enumerate(tokens):
            team = TeamFactory(organization=organization)
            used(
                source(organization, team if n else None),
                offering(organization),
                input_tokens=count,
            )
        found = chargeback(organization, NOVEMBER, places)
        exact = cost.total(organization, NOVEMBER).cost
        assert found.total == money.rounded(exact, places)
        assert money.total(team.cost for team in found.teams) == found.total


# Exports


def test_csv_reads_back_as_what_was_charged(month: Organization) -> None:
    found = chargeback(month, NOVEMBER, places=6)
    text = "".join(csv_export.chunks(found))
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == len(found.lines)
    assert read[1]["team"] == "Search"
    assert read[1]["unit_price"] == "2.500000000000"
    assert sum(Decimal(row["cost"]) for row in read) == found.total
    assert read[-1]["unit_price"] == ""


@pytest.mark.parametrize(
    "evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1", '=cmd|"/c"!A0']
)
def test_a_cell_that_a_spreadsheet_would_run_is_only_text(evil: str) -> None:
    assert cells.cell(evil) == f"'{evil}"


def test_numbers_stay_numbers_in_csv() -> None:
    shown = [cells.cell(value) for value in (Decimal("-1.50"), -3, Decimal("1E-7"), None)]
    assert shown == ["-1.50", "-3", "0.0000001", ""]


def test_the_name_of_a_team_cannot_run_in_finances_spreadsheet(organization: Organization) -> None:
    evil = TeamFactory(organization=organization, name='=HYPERLINK("http://x")', slug="evil")
    used(source(organization, evil), offering(organization), input_tokens=1)
    text = "".join(csv_export.chunks(chargeback(organization, NOVEMBER)))
    [row] = csv.DictReader(io.StringIO(text))
    assert row["team"] == '\'=HYPERLINK("http://x")'


def test_json_holds_decimals_as_text_and_unknown_as_null(month: Organization) -> None:
    said = json.loads(json_export.text(chargeback(month, NOVEMBER)))
    assert said["total"] == "3.10"
    assert said["start"] == datetime(2026, 11, 1, tzinfo=UTC).isoformat()
    assert said["lines"][1]["unit_price"] == "2.500000000000"
    assert said["lines"][-1] | {"model": "gpt-99"} == said["lines"][-1]
    assert said["lines"][-1]["unit_price"] is None
    assert said["lines"][-1]["state"] == "unknown"
    assert said["teams"][1] == {
        "team_id": None,
        "team": "unattributed",
        "cost_centre": "",
        "cost": "0.00",
        "statement_id": None,
    }
