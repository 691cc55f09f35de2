"""Splitting whole nanoseconds without losing one."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

HOUR_NS = 3_600 * 1_000_000_000


def share(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole total in proportion to weights; the shares are whole and sum to the total exactly.

    Rounding leaves over less than one per share; that goes to the largest remainders (Hamilton's method), ties to
    the earlier share. Raises ValueError if no weight is positive or one is negative.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError(f"weights must not be negative and not all zero, found {list(weights)}")
    shares = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-remainders[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def covered_ns(intervals: Iterable[tuple[int, int]], start: int, end: int) -> int:
    """How much of [start, end) lies in at least one of the intervals [from, to)."""
    covered, at = 0, start
    for begun, ended in sorted(intervals):
        begun, ended = max(begun, at), min(ended, end)
        if begun < ended:
            covered += ended - begun
            at = ended
    return covered


def split_by_hour(start_unix_ns: int, end_unix_ns: int) -> list[tuple[datetime, int]]:
    """The UTC hours that an interval touches, with the nanoseconds of it in each. They sum to its length."""
    parts = []
    at = start_unix_ns
    while at < end_unix_ns:
        hour = at // HOUR_NS
        until = min((hour + 1) * HOUR_NS, end_unix_ns)
        parts.append((datetime.fromtimestamp(hour * 3600, UTC), until - at))
        at = until
    return parts
