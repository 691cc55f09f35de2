"""Calls that look alike: a sheet's rows of Span and Entry, and their sums, column by column.

    written        the rows of a sheet that came with a key
    span_lines, entry_lines     for COPY, as spans.py and ledger.py write those of single observations
    sums           what some of them add to the hours

They say what spans.py and ledger.py would say of each observation by itself, in a fraction of the time: nothing is done
for each row that can be done for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from collectors.dialects.sheets import Sheet
from costwatch.accounts.models import IngestKey
from costwatch.attribution import profiles
from costwatch.attribution.copying import as_json
from costwatch.attribution.identity import call_ids, group_of_response, group_of_span, span_keys
from costwatch.attribution.merge import Latencies, Quantities
from costwatch.attribution.models import LatencyHour
from costwatch.attribution.profiles import NUMBERS, Known
from costwatch.domain.allocation import HOUR_NS
from costwatch.domain.latency import buckets_of

QUANTITIES = tuple(field.name for field in fields(Quantities))
LATENCIES = tuple(field.name for field in fields(Latencies))
MEASURES = tuple(LatencyHour.Measure(name.removesuffix("_ns")).value for name in LATENCIES)
_REPEATED = QUANTITIES.index("repeated_device_ns")  # the one column that has gaps
HOUR_MICROS = HOUR_NS // 1000
_TEXTS = ("response_id", "user", "session", "request_hash", "prefix_hashes")  # as in spans.COLUMNS
_SAFE_SUM = 2**62  # sums of 64 bits that stay below this are exact

Sums = dict[str, list[list[Any]]]
_Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Alike:
    """A sheet's rows: what each is called, and what is known of it."""

    sheet: Sheet
    key_id: int
    known: Sequence[Known]
    keys: Sequence[bytes]
    parents: Sequence[bytes | None]
    groups: Sequence[bytes]
    begun_micros: Sequence[int]
    moments: Sequence[str]  # the same as Postgres reads them
    durations_ns: Sequence[int]

    def __len__(self) -> int:
        return len(self.keys)


def written(key: IngestKey, sheet: Sheet) -> Alike:
    """The rows of a sheet that came with this key."""
    rows = sheet.rows
    keys = span_keys((row.trace_id, row.span_id) for row in rows)
    above = iter(
        span_keys((row.trace_id, row.parent_span_id) for row in rows if row.parent_span_id)
    )
    said = sheet.columns.get("response_id")
    begun_micros = [row.start_unix_ns // 1000 for row in rows]
    return Alike(
        sheet,
        key.pk,
        profiles.known_alike(key, sheet),
        keys,
        [next(above) if row.parent_span_id else None for row in rows],
        list(map(group_of_response, said) if said else map(group_of_span, keys)),
        begun_micros,
        _moments(begun_micros),
        [row.end_unix_ns - row.start_unix_ns for row in rows],
    )


# Lines


def span_lines(organization_id: int, alike: Alike) -> list[str]:
    """In the order of spans.COLUMNS."""
    rows, said = alike.sheet.rows, alike.sheet.columns
    numbers = [said.get(name) for name in NUMBERS]
    own = (
        alike.moments,
        map(bytes.hex, alike.keys),
        [parent.hex() if parent else "\\N" for parent in alike.parents],
        map(bytes.hex, alike.groups),
        [known.profile_id for known in alike.known],
        [row.trace_id.hex() for row in rows],
        [row.span_id.hex() for row in rows],
        [row.start_unix_ns % 1000 for row in rows],
        alike.durations_ns,
        *(column for column in numbers if column is not None),
        *(_texts(said.get(name), len(rows)) for name in _TEXTS),
        [as_json(known.raw) for known in alike.known],
    )
    marks = "\t".join("\\N" if column is None else "%d" for column in numbers)
    texts = "\t".join(["%s"] * len(_TEXTS))
    line = f"{organization_id}\t%s\t%s\t%s\t%s\tf\t%d\t\\\\x%s\t\\\\x%s\t%d\t%d\t{marks}\t{texts}\t%s\n"
    return list(map(line.__mod__, zip(*own, strict=True)))


def entry_lines(alike: Alike) -> list[str]:
    """From the place on, in the order of ledger.STATE: each the first that is counted of its call."""
    counted = _counted(alike)
    own = (
        map(bytes.hex, call_ids(alike.groups, alike.begun_micros)),
        alike.moments,
        [f"{known.source_id}\t{known.offering_id}\t{known.failed}" for known in alike.known],
        *(column for column in counted if column is not None),
    )
    marks = "\t".join("\\N" if column is None else "%s" for column in counted)
    line = f"%s\t%s\t1\t1\t%s\tt\tf\t{marks}\n"
    lines = map(line.__mod__, zip(*own, strict=True))
    if counted[_REPEATED] is None:
        return list(lines)
    return [text.replace("None", "\\N") for text in lines]


def _moments(begun_micros: Sequence[int]) -> list[str]:
    """As Postgres reads them."""
    found: list[str] = np.datetime_as_string(
        np.array(begun_micros, "datetime64[us]"), timezone="UTC"
    ).tolist()
    return found


def _texts(column: Sequence[str] | None, length: int) -> Iterable[str]:
    """Decoded texts are printable: nothing but a backslash means anything to COPY."""
    if column is None:
        return repeat("\\N", length)
    if "\\" not in "".join(column):
        return column
    return [said.replace("\\", "\\\\") for said in column]


def _counted(alike: Alike) -> list[Sequence[int | None] | None]:
    """The columns of QUANTITIES and LATENCIES; None: nobody says it."""
    said = alike.sheet.columns
    device_ns = said.get("device_ns")
    repeated = device_ns and [
        ns if known.repeated else None for ns, known in zip(device_ns, alike.known, strict=True)
    ]
    return [
        *(said.get(name) for name in QUANTITIES[:-1]),
        repeated,
        alike.durations_ns,
        *(said.get(name) for name in LATENCIES[1:]),
    ]


# Sums


def sums(alike: Alike, which: Sequence[int]) -> Sums:
    """What these rows add to each hour, source and offering, as rollups.py reads it."""
    chosen = np.array(which, np.intp)
    kinds = list(dict.fromkeys(alike.known))
    places = {known: place for place, known in enumerate(kinds)}
    kind = np.fromiter(map(places.__getitem__, alike.known), np.int64, len(alike))[chosen]
    hour = np.array(alike.begun_micros, np.int64)[chosen] // HOUR_MICROS
    found, group_of, calls = np.unique(
        hour * len(kinds) + kind, return_inverse=True, return_counts=True
    )
    groups = [(int(one) // len(kinds), kinds[int(one) % len(kinds)]) for one in found]
    about = [[hour, known.source_id, known.offering_id] for hour, known in groups]
    failed = [
        count if known.failed else 0
        for (_, known), count in zip(groups, calls.tolist(), strict=True)
    ]
    columns = [None if column is None else _array(column)[chosen] for column in _counted(alike)]
    none = [0] * len(groups)
    quantities = (
        none if column is None else _sums_by(group_of, calls, column)
        for column in columns[: len(QUANTITIES)]
    )
    usage = zip(calls.tolist(), failed, none, none, *quantities, strict=True)
    return {
        "usage": [[*of, *said] for of, said in zip(about, usage, strict=True)],
        "latency": [
            [*about[group], measure, bucket, count]
            for measure, column in zip(MEASURES, columns[len(QUANTITIES) :], strict=True)
            if column is not None
            for group, bucket, count in _histogram(group_of, column)
        ],
    }


def _array(column: Sequence[int | None]) -> _Array:
    """Integers whose sum is exact: of 64 bits where they surely fit, else Python's own."""
    whole = [value or 0 for value in column]
    return np.array(whole, np.int64 if max(whole) * len(whole) < _SAFE_SUM else object)


def _sums_by(group_of: _Array, calls: _Array, column: _Array) -> list[int]:
    """The sum of each group. calls: how many rows each has."""
    starts = np.concatenate(([0], np.cumsum(calls)[:-1]))
    found: list[int] = np.add.reduceat(column[np.argsort(group_of, kind="stable")], starts).tolist()
    return found


def _histogram(group_of: _Array, ns: _Array) -> Iterator[tuple[int, int, int]]:
    """How many there are of each group and bucket."""
    buckets = buckets_of(ns)
    width = int(buckets.max()) + 1
    found, counts = np.unique(group_of * width + buckets, return_counts=True)
    for one, count in zip(found.tolist(), counts.tolist(), strict=True):
        yield *divmod(one, width), count
