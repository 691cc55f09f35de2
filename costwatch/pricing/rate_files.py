"""Files of exchange rates, in CSV, read whole or not at all.

    date,base,quote,rate   a rate a line; quote may be left out, it is the organization's currency
    Date,USD/EUR,GBP/EUR   a day a line, with a column for each pair: base/quote
    Date,USD,JPY,…         as the European Central Bank publishes: what one euro is in each currency

A rate is never turned around. Of the bank's file an organization that reports in dollars can use the column USD (one
euro in dollars); one that reports in euros needs another file, which says what one dollar is in euros.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from costwatch.accounts.models import Organization
from costwatch.domain.exchange import currency_named
from costwatch.pricing.exchange_rates import MOST_AT_ONCE, DayRate, expect_base, expect_quote

_COLUMNS = ("date", "base", "quote", "rate")
_BANKS_BASE = "EUR"
_NOTHING = {"", "N/A", "-"}  # of a day without a rate, in a column
_MOST_NAMED = 100
_LONGEST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class BadLine:
    line: int  # of the file, from 1 on
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class BadFile(ValueError):
    """What is wrong with a file, line by line; up to a hundred lines are named."""

    def __init__(self, lines: Sequence[BadLine]) -> None:
        self.lines = tuple(lines[:_MOST_NAMED])
        more = len(lines) - len(self.lines)
        self.said = [str(line) for line in self.lines] + ([f"and {more:,} more"] if more else [])
        super().__init__("; ".join(self.said))


@dataclass(frozen=True, slots=True)
class _Cell:
    """A rate as it is written in a file."""

    line: int
    date: str
    base: str
    quote: str
    rate: str


def rates_in(organization: Organization, text: str) -> list[DayRate]:
    """The rates of a file, in its order. Raises BadFile, which names every line that is wrong."""
    found: dict[tuple[date, str], tuple[int, DayRate]] = {}
    bad: list[BadLine] = []
    for cell in _cells(organization, text):
        try:
            rate = _rate(organization, cell)
            if (rate.date, rate.base) in found:
                first, _ = found[rate.date, rate.base]
                raise ValueError(f"{rate.date} {rate.base} is in line {first} already")
            found[rate.date, rate.base] = (cell.line, rate)
        except ValueError as error:
            bad.append(BadLine(cell.line, str(error)))
    if bad:
        raise BadFile(bad)
    if not found:
        raise BadFile(
            [BadLine(1, "no rate found; expected lines such as 2026-11-23,USD,EUR,0.9217")]
        )
    return [rate for _, rate in found.values()]


def as_text(organization: Organization, rates: Sequence[DayRate]) -> str:
    """A file that rates_in() reads as these rates."""
    lines = [",".join(_COLUMNS)]
    lines += [
        f"{rate.date.isoformat()},{rate.base},{organization.currency},{rate.rate:f}"
        for rate in rates
    ]
    return "\n".join(lines) + "\n"


def _cells(organization: Organization, text: str) -> Iterator[_Cell]:
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    try:
        header = [name.strip() for name in next(rows, [])]
        names = [name.lower() for name in header]
        if {"date", "base", "rate"} <= set(names):
            yield from _long(organization, names, rows)
        elif names[:1] == ["date"] and len([name for name in names if name]) > 1:
            yield from _wide(organization, header, rows)
        else:
            raise BadFile([BadLine(1, _HEADER)])
    except csv.Error as error:
        raise BadFile([BadLine(getattr(rows, "line_num", 1), f"{error}; expected CSV")]) from None


_HEADER = (
    "expected the columns date,base,quote,rate, or Date and a column for each pair, such as USD/EUR"
)
_Rows = Iterator[list[str]]


def _long(organization: Organization, names: list[str], rows: _Rows) -> Iterator[_Cell]:
    places = {name: names.index(name) for name in _COLUMNS if name in names}
    for line, row in _numbered(rows):
        said = {name: row[place].strip() if place < len(row) else "" for name, place in places.items()}  # fmt: skip
        quote = said.get("quote") or organization.currency
        yield _Cell(line, said["date"], said["base"], quote, said["rate"])


def _wide(organization: Organization, header: list[str], rows: _Rows) -> Iterator[_Cell]:
    pairs = _pairs(organization, header)
    for line, row in _numbered(rows):
        for place, (base, quote) in pairs.items():
            rate = row[place].strip() if place < len(row) else ""
            if rate.upper() not in _NOTHING:
                yield _Cell(line, row[0].strip(), base, quote, rate)


def _pairs(organization: Organization, header: list[str]) -> dict[int, tuple[str, str]]:
    """Which columns are of use, by their place. Raises BadFile where none is."""
    named = {
        place: (base.strip(), quote.strip())
        for place, name in enumerate(header)
        if place and "/" in name
        for base, _, quote in [name.partition("/")]
    }
    if named:
        return named
    own = organization.currency
    place = next((n for n, name in enumerate(header) if n and name.upper() == own), None)
    if place is None or own == _BANKS_BASE:
        raise BadFile([BadLine(1, _other_direction(own))])
    return {place: (_BANKS_BASE, own)}


def _other_direction(own: str) -> str:
    base = "EUR" if own == "USD" else "USD"
    return (
        f"these columns say what one {_BANKS_BASE} is in other currencies; needed is what one unit of a price's currency "
        f"is in {own}, and rates are not turned around, since 1/x is not exact; expected columns such as {base}/{own}, or "
        f"date,base,quote,rate with lines such as 2026-11-23,{base},{own},0.9217"
    )


def _numbered(rows: _Rows) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty. Raises BadFile for too many."""
    for number, row in enumerate(rows, start=2):
        if number > MOST_AT_ONCE + 1:
            raise BadFile(
                [BadLine(number, f"expected up to {MOST_AT_ONCE:,} lines of rates at once")]
            )
        if any(cell.strip() for cell in row):
            yield number, row


def _rate(organization: Organization, cell: _Cell) -> DayRate:
    """Raises ValueError."""
    expect_quote(organization, currency_named(_short(cell.quote)))
    base = currency_named(_short(cell.base))
    expect_base(organization, base)
    return DayRate(day_named(_short(cell.date)), base, rate_named(_short(cell.rate)))


def day_named(text: str) -> date:
    """The day that is written 2026-11-23. Raises ValueError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"date {text!r}: expected a day, such as 2026-11-23") from None


def rate_named(text: str) -> Decimal:
    """Raises ValueError. Of 0,92 nobody knows whether it is 0.92 or 92."""
    try:
        if "_" in text:
            raise InvalidOperation
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"rate {text!r}: expected a decimal number, such as 0.9217") from None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
