"""Files of a month: the same bytes each time, what a spreadsheet and a FOCUS reader find in them."""

from __future__ import annotations

import csv as csv_files
import io
import json as json_files
import os
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pyarrow.parquet
import pytest

from costwatch.accounts.models import Organization
from costwatch.domain import money
from costwatch.reports.chargeback import Chargeback, of_team
from costwatch.reports.exports import csv, focus, json, parquet, pdf, xlsx
from costwatch.reports.lines import Line
from tests.reports.busy import EVIL, november
from tests.skips import NO_FOCUS_VALIDATOR

EXPORTS = (csv, json, xlsx, pdf, focus, parquet)


@pytest.fixture
def report(organization: Organization) -> Chargeback:
    return november(organization)


def file_of(export: ModuleType, report: Chargeback) -> bytes:
    chunks: Iterator[str | bytes] = export.chunks(report)
    return b"".join(one.encode() if isinstance(one, str) else one for one in chunks)


def records(report: Chargeback) -> list[dict[str, str]]:
    """The rows of the FOCUS file."""
    return list(csv_files.DictReader(io.StringIO(file_of(focus, report).decode())))


@pytest.mark.parametrize("export", EXPORTS)
def test_a_closed_months_file_has_the_same_bytes_each_time(
    report: Chargeback, export: ModuleType
) -> None:
    first = file_of(export, report)
    assert len(first) > 1000
    assert file_of(export, report) == first


def test_every_format_has_every_line(report: Chargeback) -> None:
    count = len(report.lines)
    assert count == len(list(report.lines)) == 11
    assert len(json_files.loads(file_of(json, report))["lines"]) == count
    assert file_of(csv, report).count(b"\r\n") == count + 1
    assert len(records(report)) == count
    assert pyarrow.parquet.read_table(io.BytesIO(file_of(parquet, report))).num_rows == count
    with zipfile.ZipFile(io.BytesIO(file_of(xlsx, report))) as book:
        assert book.read("xl/worksheets/sheet2.xml").count(b"<row ") == count + 1


def test_no_cell_of_a_workbook_is_a_formula(report: Chargeback) -> None:
    with zipfile.ZipFile(io.BytesIO(file_of(xlsx, report))) as book:
        sheet = book.read("xl/worksheets/sheet2.xml").decode()
        dates = {one.date_time for one in book.infolist()}
    assert "<f>" not in sheet
    assert f"<t>'{EVIL}</t>" in sheet
    assert {date[0] for date in dates} == {1980}, "it does not tell when it was made"


def test_amounts_in_a_workbook_are_numbers_and_exact_costs_keep_their_digits(
    report: Chargeback,
) -> None:
    with zipfile.ZipFile(io.BytesIO(file_of(xlsx, report))) as book:
        teams = book.read("xl/worksheets/sheet1.xml").decode()
        lines = book.read("xl/worksheets/sheet2.xml").decode()
    assert f"<v>{report.total}</v>" in teams
    assert "<t>7.10366940904252222222</t>" in lines


def test_markup_in_a_teams_name_is_text_on_paper(report: Chargeback) -> None:
    support = next(team for team in report.teams if team.team.startswith("Support"))
    assert file_of(pdf, of_team(report, support.team_id)).startswith(b"%PDF-")


def test_a_pdf_that_nobody_would_print_is_refused(report: Chargeback) -> None:
    [line, *_] = report.lines
    with pytest.raises(ValueError, match="a PDF holds up to 5000; ask for one team"):
        pdf.chunks(replace(report, lines=[line] * 5001))


# FOCUS


def test_focus_bills_what_the_statements_say(report: Chargeback) -> None:
    rows = records(report)
    assert sum(Decimal(row["BilledCost"]) for row in rows) == report.total
    effective = sum(Decimal(row["EffectiveCost"]) for row in rows)
    exact = money.total(line.exact_cost for line in report.lines)
    assert abs(effective - exact) < Decimal("1e-10")
    assert {row["BillingPeriodStart"] for row in rows} == {"2026-11-01T00:00:00Z"}
    assert {row["BillingPeriodEnd"] for row in rows} == {"2026-12-01T00:00:00Z"}


def test_focus_charges_an_adjustment_for_the_month_that_it_corrects(report: Chargeback) -> None:
    corrections = [row for row in records(report) if row["ChargeClass"] == "Correction"]
    told = [
        (r["ChargePeriodStart"], r["ChargePeriodEnd"], r["x_AdjustmentCause"]) for r in corrections
    ]
    october = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")
    assert told == [(*october, "late"), (*october, "price")]


def test_focus_says_of_what_has_no_price_how_much_it_was_and_not_that_it_is_free(
    report: Chargeback,
) -> None:
    [row] = [row for row in records(report) if row["x_PriceState"] == "unknown"]
    assert (row["ChargeCategory"], row["SkuPriceId"], row["PricingQuantity"]) == (
        "Adjustment",
        "",
        "",
    )
    assert (row["x_UnpricedQuantity"], row["ConsumedQuantity"]) == ("6", "")


def test_focus_keeps_its_own_rules(report: Chargeback) -> None:
    """Those of 1.2 that concern what we write; the official validator asks them all, where it is installed."""
    for row in records(report):
        assert [name for name in row if name not in focus.COLUMNS] == []
        for name in _NEVER_NULL:
            assert row[name], name
        is_usage = row["ChargeCategory"] == "Usage" and row["ChargeClass"] != "Correction"
        for name in ("SkuId", "SkuPriceId", "PricingQuantity", "ListUnitPrice", "ConsumedQuantity"):
            assert bool(row[name]) or not is_usage, name
        assert bool(row["PricingUnit"]) == bool(row["PricingQuantity"])
        assert bool(row["ConsumedUnit"]) == bool(row["ConsumedQuantity"])
        assert bool(row["SubAccountName"]) == bool(row["SubAccountId"])
        if is_usage:
            price, quantity = Decimal(row["ListUnitPrice"]), Decimal(row["PricingQuantity"])
            assert price * quantity == Decimal(row["ListCost"]) == Decimal(row["ContractedCost"])
        if not row["SkuPriceId"]:
            assert not row["ConsumedQuantity"]
        json_files.loads(row["Tags"])


_NEVER_NULL = (
    *("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"),
    *("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"),
    *("BillingAccountId", "BillingAccountName", "BillingCurrency", "ChargeCategory"),
    *("ServiceCategory", "ServiceName", "ProviderName", "PublisherName", "InvoiceIssuerName"),
)


def test_parquet_says_what_the_csv_says(report: Chargeback) -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(file_of(parquet, report))).to_pylist()
    for stored, row in zip(table, records(report), strict=True):
        assert stored["BilledCost"] == Decimal(row["BilledCost"])
        assert stored["ChargePeriodStart"] == datetime.fromisoformat(row["ChargePeriodStart"])
        assert (stored["SkuPriceId"] or "") == row["SkuPriceId"]


# Failures of focus-validator 2.2.1 that are its own, each with the reason.
VALIDATORS_OWN = {
    "CapacityReservationStatus-C-004-C": "asks for a status also where CapacityReservationId is null",
    "CommitmentDiscountStatus-C-004-C": "its condition is that CommitmentDiscountId is null, not that it isn't",
    "InvoiceId-C-005-C": "has no condition: C-004 wants null where there is no invoice, this never",
    "SubAccountName-C-002-M": "takes only ASCII for text; a team is called as it is called",
}


def test_the_official_validator_finds_no_failure_but_its_own(
    report: Chargeback, tmp_path: Path
) -> None:
    """COSTWATCH_FOCUS_VALIDATOR names the program in its own environment, of Python 3.12."""
    validator = os.environ.get("COSTWATCH_FOCUS_VALIDATOR")
    if not validator:
        pytest.skip(NO_FOCUS_VALIDATOR)
    for export, name in ((focus, "focus.csv"), (parquet, "focus.parquet")):
        (tmp_path / name).write_bytes(file_of(export, report))
        assert failures(validator, tmp_path / name, tmp_path / f"{name}.xml") == set(VALIDATORS_OWN)


def failures(validator: str, file: Path, told: Path) -> set[str]:
    """Rules that the validator finds broken; those that only sum up others are left out."""
    [packages] = Path(validator).parent.parent.glob("lib/python3*/site-packages")
    subprocess.run(
        [
            *(validator, "--data-file", str(file), "--validate-version", "1.2.0.1"),
            *("--block-download", "--applicability-criteria", "ALL"),
            *("--focus-dataset", "CostAndUsage", "--output-type", "unittest"),
            *("--output-destination", str(told)),
        ],
        cwd=packages,  # it looks there for its rules
        check=True,
        capture_output=True,
        timeout=300,
    )
    cases = ET.parse(told).iter("testcase")  # noqa: S314  our own child wrote it
    failed = [case.get("name", "") for case in cases if case.find("failure") is not None]
    return {name.split(" :: ")[0] for name in failed if not name.endswith(":: Composite")}


# Memory


class ManyLines(list[Line]):
    """One line, so many times, without holding them."""

    def __init__(self, line: Line, count: int) -> None:
        super().__init__()
        self._line, self._count = line, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Line]:
        return (self._line for _ in range(self._count))


@pytest.mark.parametrize("export", [csv, json, focus, xlsx])
def test_four_times_the_lines_need_no_more_memory(
    organization: Organization, export: ModuleType
) -> None:
    report = november(organization)
    [line, *_] = report.lines
    small, large = (
        peak_bytes(export, replace(report, lines=ManyLines(line, n))) for n in (500, 2000)
    )
    assert large < small + 300_000


def peak_bytes(export: ModuleType, report: Chargeback) -> int:
    tracemalloc.start()
    for _ in export.chunks(report):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_without_pyarrow_it_says_how_to_get_it() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PYARROW], capture_output=True, text=True, check=True,
        env={**os.environ, "COSTWATCH_SECRET_KEY": "x", "DJANGO_SETTINGS_MODULE": "costwatch.settings"},
    )  # fmt: skip
    assert "pip install 'costwatch-ai[parquet]'" in said.stdout


_WITHOUT_PYARROW = """
import sys
sys.modules["pyarrow"] = None
import django
django.setup()
from costwatch.reports.exports import MissingExtra, parquet
try:
    parquet.chunks(None)
except MissingExtra as error:
    print(error)
"""
