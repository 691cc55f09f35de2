"""Bills of clouds as files: FOCUS (1.0 and later) or AWS' Cost and Usage Report (legacy and 2.0), as CSV, gzipped or not.

Rows are read one after the other; what is kept are the sums of lines, so a file of any length takes the memory of a
day's kinds of lines. Rows of services that run no models are counted and left out. Rows that can't be read are named,
and then nothing of the file is taken: a bill that lacks rows is a wrong bill.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import IO, Any, cast

from collectors.providers.lines import BillLine
from collectors.providers.tables import Table, table_of

_MOST_BYTES = 4 * 1024**3  # decompressed
_MOST_LINES = 200_000  # that differ
_LONGEST_LINE = 1024 * 1024
_NAMED_ROWS = 20
_GZIP = b"\x1f\x8b"


class BadFile(ValueError):
    """A file of which nothing was taken. rows: what is wrong with the first of its bad rows, by their numbers."""

    def __init__(self, message: str, rows: Iterable[str] = (), bad_rows: int = 0) -> None:
        super().__init__(message)
        self.rows = tuple(rows)
        self.bad_rows = bad_rows


@dataclass(frozen=True, slots=True)
class Billed:
    """A bill's account with one provider, over the days that it is of."""

    provider: str
    account: str
    first: date
    last: date
    lines: tuple[BillLine, ...]


@dataclass(frozen=True, slots=True)
class Contents:
    format: str  # FOCUS or CUR
    rows: int
    bills: tuple[Billed, ...]
    left_out: Mapping[str, int]  # rows by service that runs no models


@dataclass(slots=True)
class _Sums:
    """What is kept while rows go by."""

    rows: int = 0
    bad_rows: int = 0
    named: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    lines: dict[tuple[str, BillLine], tuple[int | None, Decimal]] = field(default_factory=dict)

    def bad(self, row: int, why: str) -> None:
        self.bad_rows += 1
        if len(self.named) < _NAMED_ROWS:
            self.named.append(f"row {row}: {why}")


def read(files: Iterable[IO[bytes]], most_bytes: int = _MOST_BYTES) -> Contents:
    """The parts of one bill, together. Raises BadFile."""
    sums, kind = _Sums(), ""
    left = most_bytes
    for file in files:
        limited = _limited(file, left)
        table = _add(csv.reader(_lines(limited), strict=True), sums)
        left = limited.left
        if kind and table.name != kind:
            raise BadFile(f"found {kind} and {table.name}: expected the parts of one bill")
        kind = table.name
    if sums.bad_rows:
        raise BadFile(
            f"{sums.bad_rows:,} of {sums.rows:,} rows can't be read, so nothing was taken",
            sums.named,
            sums.bad_rows,
        )
    return Contents(kind, sums.rows, tuple(_bills(sums)), dict(sums.left_out.most_common()))


def _add(rows: Iterator[list[str]], sums: _Sums) -> Table:
    """Add a file's rows; returns what kind of table they are."""
    try:
        header = next(rows, [])
        try:
            table = table_of(header)
        except ValueError as error:
            raise BadFile(str(error)) from None
        for number, cells in enumerate(rows, 2):
            if cells:
                _add_row(table, number, cells, len(header), sums)
    except csv.Error as error:
        raise BadFile(f"after row {sums.rows + 1}: no CSV ({error})") from None
    except UnicodeDecodeError as error:
        raise BadFile(
            f"after row {sums.rows + 1}: expected text in UTF-8 ({error.reason})"
        ) from None
    except (EOFError, OSError) as error:
        raise BadFile(f"after row {sums.rows + 1}: the file is damaged ({error})") from None
    return table


def _add_row(table: Table, number: int, cells: list[str], width: int, sums: _Sums) -> None:
    sums.rows += 1
    try:
        if len(cells) != width:
            raise ValueError(f"expected {width} cells, as the header has, found {len(cells)}")
        service, found = table.line(cells)
    except ValueError as error:
        sums.bad(number, str(error))
        return
    if found is None:
        if service in sums.left_out or len(sums.left_out) < _MOST_LINES:
            sums.left_out[service] += 1
        return
    account, line = found
    key = (account, replace(line, quantity=None, amount=Decimal(0)))
    quantity, amount = sums.lines.get(key, (0, Decimal(0)))
    both = None if quantity is None or line.quantity is None else quantity + line.quantity
    sums.lines[key] = (both, amount + line.amount)
    if len(sums.lines) > _MOST_LINES:
        raise BadFile(
            f"more than {_MOST_LINES:,} different lines: expected a bill by day and model, not by request"
        )


def _bills(sums: _Sums) -> Iterator[Billed]:
    by_account: dict[tuple[str, str], list[BillLine]] = {}
    for (account, line), (quantity, amount) in sums.lines.items():
        whole = replace(line, quantity=quantity, amount=amount)
        by_account.setdefault((line.provider, account), []).append(whole)
    for (provider, account), lines in sorted(by_account.items()):
        days = [line.day for line in lines]
        yield Billed(provider, account, min(days), max(days), tuple(lines))


class _Limited(io.RawIOBase):
    """A stream of which no more than so many bytes are taken. left: how many may still come."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        self._file = file
        self.left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        chunk = self._file.read(len(into))
        self.left -= len(chunk)
        if self.left < 0:
            raise BadFile("the file is too large; expected a month's bill at most")
        into[: len(chunk)] = chunk
        return len(chunk)


def _limited(file: IO[bytes], most_bytes: int) -> _Limited:
    """What a file says, unpacked if it is gzipped."""
    start = file.read(len(_GZIP))
    file.seek(0)
    if start != _GZIP:
        return _Limited(file, most_bytes)
    return _Limited(cast("IO[bytes]", gzip.GzipFile(fileobj=file)), most_bytes)


def _lines(limited: _Limited) -> Iterator[str]:
    text = io.TextIOWrapper(io.BufferedReader(limited), encoding="utf-8-sig", newline="")
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise BadFile(f"a line of more than {_LONGEST_LINE:,} characters: expected CSV")
        yield line
