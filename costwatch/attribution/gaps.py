"""What metrics count for, beside spans: only what no span and no better metric speaks of. Pure functions.

    segments     a stream's readings → what was used between one and the next
    in_force     all streams of some processes → what counts in each hour, and why the rest does not

A segment counts only where no span covers any hour that it touches: the call that it speaks of may have ended in any
of them. So what one sends by spans and by metrics is never counted twice, at the price that beside a call on a span
at 10:58 the metrics between 10:59 and 11:00 do not count either.

Everything is a function of the set of points and spans: neither order nor repetition changes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from collectors.observation import Meter
from costwatch.domain.allocation import HOUR_NS, share

Place = tuple[UUID, int, int, int]  # process, hour, source, offering

# Of a stream that began longer before its first reading, nobody knows in which hours it counted.
_UNHEARD_NS = 24 * HOUR_NS
_COUNTED_BY_CHOICE = (Meter.INPUT, Meter.OUTPUT)  # the others are parts of these


class Reading(NamedTuple):
    """What a cumulative stream had counted at a moment."""

    time_unix_ns: int
    tokens: int
    calls: int


class Segment(NamedTuple):
    """What a stream counted between two moments."""

    start_unix_ns: int
    end_unix_ns: int
    tokens: int
    calls: int

    @property
    def hours(self) -> range:
        """The hours since 1970 that it touches."""
        return range(self.start_unix_ns // HOUR_NS, self.end_unix_ns // HOUR_NS + 1)


@dataclass(frozen=True, slots=True)
class Stream:
    """A TokenStream as the rule sees it, with its segments."""

    pk: int
    process: UUID
    unit: tuple[int, str, str]  # key, scope and family: what counts each thing once
    meter: Meter
    models: frozenset[str]
    service: tuple[str, str]  # name and environment
    account: tuple[int, int]  # source and offering
    segments: Sequence[Segment]


@dataclass(slots=True)
class Use:
    """What was used; the names are columns of MetricUse, and meters are disjoint."""

    calls: int = 0
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    def values(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in USE_COLUMNS)


USE_COLUMNS = tuple(field.name for field in fields(Use))
_COLUMN_OF = {
    Meter.INPUT: "input_tokens",
    Meter.OUTPUT: "output_tokens",
    Meter.CACHE_READ: "cache_read_input_tokens",
    Meter.CACHE_WRITE: "cache_write_input_tokens",
    Meter.REASONING: "reasoning_output_tokens",
}


@dataclass(frozen=True, slots=True)
class InForce:
    """What counts, by process, hour since 1970, source and offering; and the fate of each stream, by hour and pk."""

    uses: Mapping[Place, Use]
    counted: frozenset[tuple[int, int]]
    repeated: frozenset[tuple[int, int]]  # another metric of the process says the same
    covered: frozenset[tuple[int, int]]  # a part of it, or all


def model_key(name: str) -> str:
    """A model's name as it is compared: gateways and runtimes put paths before it."""
    return name.rpartition("/")[2].lower()[:255]


def readings(numbers: Sequence[int]) -> list[Reading]:
    return [Reading(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)]


def points(numbers: Sequence[int]) -> list[Segment]:
    return [Segment(*numbers[at : at + 4]) for at in range(0, len(numbers), 4)]


def first_and_last(found: Iterable[Reading]) -> list[Reading]:
    """All that the segments of an hour depend on; where two say different things of one moment, the larger one."""
    ordered = sorted(found, key=lambda one: (one.time_unix_ns, -one.tokens, -one.calls))
    last = max(found)
    return [ordered[0]] if last.time_unix_ns == ordered[0].time_unix_ns else [ordered[0], last]


def between(found: Sequence[Reading], started_unix_ns: int) -> Iterator[Segment]:
    """The segments of a cumulative stream, from its readings in order.

    A reading at the very beginning is what was counted before it (OTLP, "unknown start time"). What is less than
    before has begun anew.
    """
    first = found[0]
    if 0 < first.time_unix_ns - started_unix_ns <= _UNHEARD_NS:
        found = [Reading(started_unix_ns, 0, 0), *found]
    for one, next_one in pairwise(found):
        anew = next_one.tokens < one.tokens or next_one.calls < one.calls
        tokens, calls = (0, 0) if anew else (one.tokens, one.calls)
        yield Segment(
            one.time_unix_ns,
            next_one.time_unix_ns,
            next_one.tokens - tokens,
            next_one.calls - calls,
        )


def in_force(streams: Iterable[Stream], is_covered: Callable[[Stream, range], bool]) -> InForce:
    """What counts of these streams; all of a process are there, or none.

    is_covered   whether something better speaks of what this stream counts in one of these hours.
    """
    pieces, covered = _pieces(streams, is_covered)
    uses: dict[Place, Use] = defaultdict(Use)
    counted: set[tuple[int, int]] = set()
    repeated: set[tuple[int, int]] = set()
    for (process, hour), found in pieces.items():
        for same in _about_the_same(found):
            best = _best(same, found)
            for stream in same:
                chosen = stream.unit == best
                (counted if chosen else repeated).add((hour, stream.pk))
                if chosen:
                    _add(uses[process, hour, *stream.account], stream.meter, *found[stream.pk][1:])
    for use in uses.values():
        cached = use.cache_read_input_tokens + use.cache_write_input_tokens
        use.input_tokens = max(0, use.input_tokens - cached)
    return InForce(uses, frozenset(counted), frozenset(repeated), frozenset(covered))


# By process and hour, and then by stream: tokens and calls.
_Pieces = dict[tuple[UUID, int], dict[int, tuple[Stream, int, int]]]


def _pieces(
    streams: Iterable[Stream], is_covered: Callable[[Stream, range], bool]
) -> tuple[_Pieces, set[tuple[int, int]]]:
    """What each stream counted in each hour, but for what is covered; and of which streams something is."""
    pieces: _Pieces = defaultdict(dict)
    covered: set[tuple[int, int]] = set()
    for stream in streams:
        for segment in stream.segments:
            if is_covered(stream, segment.hours):
                covered.update((hour, stream.pk) for hour in segment.hours)
                continue
            for hour, tokens, calls in _by_hour(segment):
                found = pieces[stream.process, hour]
                _, tokens_before, calls_before = found.get(stream.pk, (stream, 0, 0))
                found[stream.pk] = (stream, tokens_before + tokens, calls_before + calls)
    return pieces, covered


def _by_hour(segment: Segment) -> list[tuple[int, int, int]]:
    """In proportion to the time in each hour, in whole tokens and calls that sum to the segment's."""
    start, end, tokens, calls = segment
    hours = range(start // HOUR_NS, -(-end // HOUR_NS))
    lengths = [min((hour + 1) * HOUR_NS, end) - max(hour * HOUR_NS, start) for hour in hours]
    return list(zip(hours, share(tokens, lengths), share(calls, lengths), strict=True))


def _about_the_same(found: Mapping[int, tuple[Stream, int, int]]) -> list[list[Stream]]:
    """The streams of an hour, those together that name a model in common: one says gpt-4o, the other its version."""
    by_names: dict[frozenset[str], list[Stream]] = defaultdict(list)
    for stream, _, _ in found.values():
        by_names[stream.models].append(stream)
    groups: list[tuple[frozenset[str], list[Stream]]] = []
    for names, streams in by_names.items():
        met = [group for group in groups if group[0] & names]
        groups = [group for group in groups if not group[0] & names]
        others = [stream for _, together in met for stream in together]
        groups.append((names.union(*(said for said, _ in met)), others + streams))
    return [together for _, together in groups]


def _best(
    streams: Iterable[Stream], found: Mapping[int, tuple[Stream, int, int]]
) -> tuple[int, str, str]:
    """The unit that saw most of what several instrumentations of one process may have seen."""
    seen: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for stream in streams:
        _, tokens, calls = found[stream.pk]
        seen[stream.unit][0] += tokens if stream.meter in _COUNTED_BY_CHOICE else 0
        seen[stream.unit][1] += calls
    return max(seen, key=lambda unit: (seen[unit], unit))


def _add(use: Use, meter: Meter, tokens: int, calls: int) -> None:
    use.calls += calls
    if meter is not Meter.CALLS:
        column = _COLUMN_OF[meter]
        setattr(use, column, getattr(use, column) + tokens)
