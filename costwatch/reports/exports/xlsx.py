"""Chargeback as a workbook: a sheet of teams, and one of lines (more, where one is full)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import xlsxwriter

from costwatch.reports.chargeback import Chargeback
from costwatch.reports.exports.cells import cell
from costwatch.reports.exports.csv import HEADER, LINE_COLUMNS
from costwatch.reports.exports.files import pieces_of

CONTENT_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EXTENSION = "xlsx"

_MOST_ROWS = 1_048_575  # below a sheet's header
_LARGEST = 10**15  # from which on a spreadsheet's numbers lose digits
_WIDTHS = {"organization": 18, "team": 22, "model": 28, "provider": 14, "feature": 20, "meter": 24}
# Nothing in a file tells when it was made, so that the same lines make the same bytes.
_MADE = datetime(2000, 1, 1)  # noqa: DTZ001  XlsxWriter takes it for UTC, and refuses a zone


def chunks(chargeback: Chargeback) -> Iterator[bytes]:
    return pieces_of(partial(_write, chargeback=chargeback))


def _write(path: Path, chargeback: Chargeback) -> None:
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    with xlsxwriter.Workbook(str(path), options) as book:
        book.set_properties({"created": _MADE, "title": f"Chargeback {chargeback.month}"})
        bold = book.add_format({"bold": True})
        amount = book.add_format({"num_format": _amount_format(chargeback.places)})
        _teams(book, chargeback, bold, amount)
        _lines(book, chargeback, bold, amount)


def _amount_format(places: int) -> str:
    return "#,##0" + (f".{'0' * places}" if places else "")


def _teams(book: Any, chargeback: Chargeback, bold: Any, amount: Any) -> None:
    sheet = book.add_worksheet("Teams")
    sheet.set_column(0, 2, 22)
    signed = chargeback.sha256 or "not closed: amounts may still change"
    about = (
        ("Organization", chargeback.organization),
        ("Month", chargeback.month),
        ("State", chargeback.state),
        ("Currency", chargeback.currency),
        ("SHA-256", signed),
    )
    for number, (name, value) in enumerate(about):
        sheet.write_string(number, 0, name, bold)
        sheet.write_string(number, 1, cell(value))
    first = len(about) + 1
    for column, name in enumerate(("Team", "Cost centre", "Owes")):
        sheet.write_string(first, column, name, bold)
    totals = [(team.team, team.cost_centre, team.cost) for team in chargeback.teams]
    for number, (team, centre, cost) in enumerate(
        [*totals, ("All", "", chargeback.total)], start=first + 1
    ):
        sheet.write_string(number, 0, cell(team))
        sheet.write_string(number, 1, cell(centre))
        _number(sheet, number, 2, cost, amount)


def _lines(book: Any, chargeback: Chargeback, bold: Any, amount: Any) -> None:
    about = (chargeback.organization, chargeback.month, chargeback.currency)
    lines = iter(chargeback.lines)
    for number in range(1, 1 + max(1, -(-len(chargeback.lines) // _MOST_ROWS))):
        sheet = book.add_worksheet("Lines" if number == 1 else f"Lines {number}")
        sheet.freeze_panes(1, 0)
        for column, name in enumerate(HEADER):
            sheet.set_column(column, column, _WIDTHS.get(name, 12))
            sheet.write_string(0, column, name, bold)
        for row, line in enumerate(islice(lines, _MOST_ROWS), start=1):
            values = (*about, *(getattr(line, name) for name in LINE_COLUMNS))
            for column, (name, value) in enumerate(zip(HEADER, values, strict=True)):
                _cell(sheet, row, column, name, value, amount)


def _cell(sheet: Any, row: int, column: int, name: str, value: object, amount: Any) -> None:
    if name == "cost" and isinstance(value, Decimal):
        _number(sheet, row, column, value, amount)
    elif isinstance(value, int) and abs(value) < _LARGEST:
        sheet.write_number(row, column, value)
    elif text := cell(value):
        # Exact decimals stay text: a spreadsheet would keep 15 digits of them.
        sheet.write_string(row, column, text)


def _number(sheet: Any, row: int, column: int, value: Decimal, form: Any) -> None:
    if abs(value) < _LARGEST // 1000:
        sheet.write_number(row, column, value, form)
    else:
        sheet.write_string(row, column, cell(value))
