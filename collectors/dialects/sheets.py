"""Spans that say the same things, column by column: what most bodies consist of.

Thousands of spans of one library differ in nothing but numbers, ids and people. Those with the same Layout are kept as
columns, of which sums are taken and lines are written without an object for each span. What is out of the ordinary,
in a token count above all, is read as an Observation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress, repeat
from operator import not_
from typing import TYPE_CHECKING, Any, NamedTuple

from collectors.dialects import table
from collectors.dialects.usage import MAX_TOKENS
from collectors.observation import Decoded, Observation, SpanLink

if TYPE_CHECKING:
    from collectors.dialects.prototypes import Prototype

_USAGE = {
    "input_tokens": table.INPUT,
    "cache_read_input_tokens": table.CACHE_READ,
    "cache_write_input_tokens": table.CACHE_WRITE,
    "output_tokens": table.OUTPUT,
    "reasoning_output_tokens": table.REASONING,
}


class Layout(NamedTuple):
    """What a span's own values are, and how its counts are read."""

    names: tuple[str, ...]  # their meanings, in the order of the span
    stands: frozenset[str]  # those that stand in an Observation as they were read
    input_excludes_cache: bool


class Row(NamedTuple):
    """A span that says what an earlier one said, but for these."""

    prototype: Prototype
    values: Sequence[Any]  # in the order of its layout's names
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None
    start_unix_ns: int
    end_unix_ns: int

    def own(self) -> dict[str, Any]:
        return dict(zip(self.prototype.names, self.values, strict=True))

    def link(self) -> SpanLink:
        """Its link, with the tags that it hands down."""
        return SpanLink(
            self.trace_id,
            self.span_id,
            self.parent_span_id,
            self.start_unix_ns,
            self.prototype.tags(self.own()),
        )

    def observation(self) -> Observation:
        return self.prototype.observation(self.link(), self.end_unix_ns, self.own())


@dataclass(slots=True)
class Sheet:
    """Rows of one layout. All are calls, none a wrapper, and what they count is as it should be."""

    rows: Sequence[Row]
    columns: Mapping[
        str, Sequence[Any]
    ]  # by field of Observation or of its usage; absent: nobody says it

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Iterable[Any]:
        """A column; all None where it is absent."""
        return self.columns.get(name) or repeat(None, len(self.rows))


def sorted_out(rows: Iterable[Row]) -> tuple[list[Sheet], list[Observation]]:
    """Sheets of the rows that can lie in one, and what the others say."""
    alike: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        alike[id(row.prototype.layout)].append(row)
    single: list[Observation] = []
    sheets: list[Sheet] = []
    for found in alike.values():
        layout = found[0].prototype.layout
        if layout is None:
            single += [row.observation() for row in found]
        else:
            sheets.append(_sheet(layout, found, single))
    return [sheet for sheet in sheets if len(sheet)], single


def _sheet(layout: Layout, rows: list[Row], single: list[Observation]) -> Sheet:
    """The sheet of the regular rows; what the others say is added to single."""
    counts = _Counts(layout, rows)
    regular = list(counts.regular())
    if not all(regular):
        single += [row.observation() for row in compress(rows, map(not_, regular))]
        rows = list(compress(rows, regular))
        counts = _Counts(layout, rows)
    return Sheet(rows, counts.columns())


def without_sheets(decoded: Decoded) -> Decoded:
    """The same, with an Observation for each row."""
    rows = [row for sheet in decoded.sheets for row in sheet.rows]
    observations = [*decoded.observations, *(row.observation() for row in rows)]
    return replace(decoded, observations=observations, sheets=())


class _Counts:
    """The columns of some rows."""

    def __init__(self, layout: Layout, rows: Sequence[Row]) -> None:
        self._layout = layout
        self._rows = rows
        values = (
            zip(*(row.values for row in rows), strict=True) if rows else [()] * len(layout.names)
        )
        self._said: dict[str, Sequence[Any]] = dict(zip(layout.names, values, strict=True))

    def _count(self, name: str) -> Iterable[int]:
        """A count of each row, zero where it does not say it."""
        return self._said.get(name) or repeat(0, len(self._rows))

    def regular(self) -> Iterator[bool]:
        """Of each row, whether its counts can be, and mean what usage.metered makes of the usual ones."""
        given = self._count(table.INPUT), self._count(table.OUTPUT)
        cached = self._count(table.CACHE_READ), self._count(table.CACHE_WRITE)
        has_total = table.TOTAL in self._said
        total, reasoning = self._count(table.TOTAL), self._count(table.REASONING)
        excludes = self._layout.input_excludes_cache
        for input_, output, read, write, reasoned, whole in zip(
            *given, *cached, reasoning, total, strict=True
        ):
            yield (
                0 < input_ <= MAX_TOKENS
                and 0 <= output <= MAX_TOKENS
                and 0 <= read <= MAX_TOKENS
                and 0 <= write <= MAX_TOKENS
                and (excludes or read + write <= input_)
                and 0 <= reasoned <= output
                and 0 <= whole <= MAX_TOKENS
                # A total tells which reading is meant, where there are two.
                and (
                    whole == input_ + output
                    or not has_total
                    or not (reasoned or (read + write and not excludes))
                )
            )

    def columns(self) -> dict[str, Sequence[Any]]:
        columns = {field: self._said[name] for field, name in _USAGE.items() if name in self._said}
        columns |= {name: self._said[name] for name in self._layout.stands}
        columns |= {name: self._said[name] for name in PEOPLE if name in self._said}
        if not self._layout.input_excludes_cache and len(_CACHED & self._said.keys()):
            cached = self._count(table.CACHE_READ), self._count(table.CACHE_WRITE)
            columns["input_tokens"] = [
                input_ - read - write
                for input_, read, write in zip(self._said[table.INPUT], *cached, strict=True)
            ]
        return columns


PEOPLE = ("customer", "user", "session")
_CACHED = {table.CACHE_READ, table.CACHE_WRITE}


@lru_cache(maxsize=4096)
def layout_of(
    names: tuple[str, ...], stands: frozenset[str], input_excludes_cache: bool
) -> Layout | None:
    """One object for one layout; None where spans of it are to be read one by one."""
    if table.INPUT not in names:
        return None
    return Layout(names, stands, input_excludes_cache)
