"""Chargeback as CSV (RFC 4180, UTF-8) for a spreadsheet or a finance system."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from costwatch.reports.chargeback import Chargeback
from costwatch.reports.exports.cells import cell
from costwatch.reports.lines import LINE_FIELDS

CONTENT_TYPE = "text/csv; charset=utf-8"
EXTENSION = "csv"

LINE_COLUMNS = tuple(name for name in LINE_FIELDS if name != "team_id")
HEADER = ("organization", "month", "currency", *LINE_COLUMNS)


class Echo:
    """What csv.writer writes to: it gives back each row instead of keeping it."""

    def write(self, row: str) -> str:
        return row


def chunks(chargeback: Chargeback) -> Iterator[str]:
    """The header and one row a line, one at a time, so that a long month needs no memory."""
    writer = csv.writer(Echo())
    yield str(writer.writerow(HEADER))
    about = (chargeback.organization, chargeback.month, chargeback.currency)
    for line in chargeback.lines:
        values = (*about, *(getattr(line, name) for name in LINE_COLUMNS))
        yield str(writer.writerow([cell(value) for value in values]))
