"""How much is taken at once, and how fast from one key. Held in memory, so each process has its own.

Room     so many work at once, so many wait for that, whoever comes then is told to come again
Rates    so many requests and bytes a second from one key, and two seconds' worth at once
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_BURST_SECONDS = 2.0


class Full(Exception):
    """Too many wait already, or this one has waited too long."""


class Room:
    """Room for at_work at once, and for waiting more who wait wait_seconds at most."""

    def __init__(self, *, at_work: int, waiting: int, wait_seconds: float) -> None:
        self._places = threading.BoundedSemaphore(at_work)
        self._may_wait = threading.BoundedSemaphore(waiting) if waiting else None
        self._wait_seconds = wait_seconds

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place at work for as long as the block takes. Raises Full."""
        if not self._places.acquire(blocking=False):
            self._wait()
        try:
            yield
        finally:
            self._places.release()

    def _wait(self) -> None:
        if self._may_wait is None or not self._may_wait.acquire(blocking=False):
            raise Full
        try:
            if not self._places.acquire(timeout=self._wait_seconds):
                raise Full
        finally:
            self._may_wait.release()


@dataclass(frozen=True, slots=True)
class Rate:
    """What one key may send. None: as much as it likes."""

    requests_per_second: int | None
    bytes_per_second: int | None


@dataclass(slots=True)
class _Left:
    """What a key may still send at a moment; below zero it has sent more than it might."""

    rate: Rate
    requests: float
    bytes: float
    at_seconds: float
    held_up: int = 0


class Rates:
    """What each key has left. A body's bytes are known when it is read: they are owed, and paid off before the next.

    Moments are of one monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}  # as many as there are keys that sent something
        self._lock = threading.Lock()

    def admit(self, key_id: int, rate: Rate, now_seconds: float) -> float:
        """Take one request from what the key has left; or the seconds after which there will be enough for it."""
        with self._lock:
            left = self._refilled(key_id, rate, now_seconds)
            wait_seconds = max(
                _until_above(left.requests, 1.0, rate.requests_per_second),
                _until_above(left.bytes, 0.0, rate.bytes_per_second),
            )
            if wait_seconds:
                left.held_up += 1
            else:
                left.requests -= 1.0
            return wait_seconds

    def pop_held_up(self, key_id: int) -> int:
        """How many requests were not let in since this was last asked."""
        with self._lock:
            left = self._left.get(key_id)
            if left is None:
                return 0
            held_up, left.held_up = left.held_up, 0
            return held_up

    def owe(self, key_id: int, size_bytes: int) -> None:
        """Take the bytes of a body that was admitted."""
        with self._lock:
            if key_id in self._left:
                self._left[key_id].bytes -= size_bytes

    def _refilled(self, key_id: int, rate: Rate, now_seconds: float) -> _Left:
        most_requests = _BURST_SECONDS * (rate.requests_per_second or 0)
        most_bytes = _BURST_SECONDS * (rate.bytes_per_second or 0)
        left = self._left.get(key_id)
        if left is None or left.rate != rate:
            # What was owed at another rate is forgotten: paid off at the new one it could take days.
            held_up = left.held_up if left else 0
            left = _Left(rate, most_requests, most_bytes, now_seconds, held_up)
            self._left[key_id] = left
        passed_seconds = max(0.0, now_seconds - left.at_seconds)
        left.requests = _filled(
            left.requests, passed_seconds, rate.requests_per_second, most_requests
        )
        left.bytes = _filled(left.bytes, passed_seconds, rate.bytes_per_second, most_bytes)
        left.at_seconds = max(left.at_seconds, now_seconds)
        return left


def _filled(left: float, seconds: float, per_second: int | None, most: float) -> float:
    return min(most, left + seconds * (per_second or 0))


def _until_above(left: float, wanted: float, per_second: int | None) -> float:
    return max(0.0, wanted - left) / per_second if per_second else 0.0
