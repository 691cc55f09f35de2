"""Whose a device's time was, where only the times of the calls on it are known.

At each moment the time goes evenly to the calls that are in the model then (processor sharing). What a device does in
a moment is not seen from outside; of a batch that is stepped together, every member holds the others up as long.
"""

from collections.abc import Sequence
from typing import NamedTuple

from costwatch.domain.allocation import HOUR_NS, share

_SCALE = 2**40  # of a call's part of a busy stretch; times are shared to the 10⁻¹² part


class Interval(NamedTuple):
    """From when to when a call was in the model, in nanoseconds; the end is excluded."""

    start_ns: int
    end_ns: int


def in_model_shares(intervals: Sequence[Interval]) -> dict[int, list[int]]:
    """Each call's nanoseconds of the time in which the device worked for any of them, in the same order, by UTC hour
    (since 1970) of those in which anybody was there.

    They sum to the length of the intervals' union in the hour, whatever overlaps: so no hour of a device is shared out
    twice, nor more of it than it has. An empty interval gets nothing.
    """
    found: dict[int, list[int]] = {}
    for hour, parts in _hours(intervals):
        shares = found[hour] = [0] * len(intervals)
        for stretch in _stretches(parts):
            _share(stretch, shares)
    return found


class _Part(NamedTuple):
    """What of a call's interval lies in one hour."""

    start_ns: int
    end_ns: int
    place: int


def _hours(intervals: Sequence[Interval]) -> list[tuple[int, list[_Part]]]:
    """The intervals' parts by the hour that they lie in, in order of time."""
    hours: dict[int, list[_Part]] = {}
    for place, (start_ns, end_ns) in enumerate(intervals):
        at = start_ns
        while at < end_ns:
            hour = at // HOUR_NS
            until = min(end_ns, (hour + 1) * HOUR_NS)
            hours.setdefault(hour, []).append(_Part(at, until, place))
            at = until
    return [(hour, sorted(hours[hour])) for hour in sorted(hours)]


def _stretches(hour: Sequence[_Part]) -> list[list[_Part]]:
    """Parts of an hour that follow each other without a moment in which nobody was there."""
    found: list[list[_Part]] = []
    end_ns = 0
    for part in hour:
        if not found or part.start_ns >= end_ns:
            found.append([])
        found[-1].append(part)
        end_ns = max(end_ns, part.end_ns)
    return found


def _share(stretch: Sequence[_Part], shares: list[int]) -> None:
    """Add to shares what each call had of a stretch."""
    length_ns = max(part.end_ns for part in stretch) - stretch[0].start_ns
    for part, ns in zip(stretch, share(length_ns, _weights(stretch)), strict=True):
        shares[part.place] += ns


def _weights(stretch: Sequence[_Part]) -> list[int]:
    """∫ dt / n(t) over each part, n being how many are there at t, times _SCALE; at least 1."""
    edges = sorted(
        [(part.start_ns, 1) for part in stretch] + [(part.end_ns, -1) for part in stretch]
    )
    passed: dict[int, int] = {}
    before_ns, there, total = edges[0][0], 0, 0
    for at_ns, change in edges:
        if there:
            total += (at_ns - before_ns) * _SCALE // there
        passed[at_ns] = total
        before_ns, there = at_ns, there + change
    return [max(1, passed[part.end_ns] - passed[part.start_ns]) for part in stretch]
