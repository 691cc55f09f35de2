"""Who is let in: nobody before the model is there and after the server was told to stop; then as many as the queue holds.

Door     whether it is open, and when to come back where it is not
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from serving.engine.request import Finished
from serving.server.errors import Overloaded, QueueFull
from serving.server.runtime import Stats

_REMEMBERED = 64
_UNKNOWN_SECONDS = 2  # before anything was answered
_LONGEST_SECONDS = 300


class Door:
    """Open until drain(). now is a clock in seconds, stats says how full the engine is."""

    def __init__(
        self, stats: Callable[[], Stats], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._stats, self._now = stats, now
        self._service_ns: deque[int] = deque(maxlen=_REMEMBERED)
        self._closes_at: float | None = None

    @property
    def is_draining(self) -> bool:
        return self._closes_at is not None

    def drain(self, seconds: float) -> None:
        """Let nobody in any more. seconds is how long who is inside may take; a second call changes nothing."""
        if self._closes_at is None:
            self._closes_at = self._now() + seconds

    @property
    def drain_is_over(self) -> bool:
        return self._closes_at is not None and self._now() >= self._closes_at

    def finished(self, finished: Finished) -> None:
        """Remember how long a request was served, from its first step to its end."""
        if finished.scheduled_ns is not None:
            self._service_ns.append(finished.finished_ns - finished.scheduled_ns)

    def check(self) -> None:
        """Raises Overloaded while the server drains."""
        if self._closes_at is not None:
            raise Overloaded(
                "the server is shutting down and takes no more requests; send it to another one",
                code="draining",
                retry_after_seconds=max(1, math.ceil(self._closes_at - self._now())),
            )

    def turned_away(self) -> QueueFull:
        """What to tell a request for which the queue has no room."""
        stats = self._stats()
        seconds = self.seconds_until_served(stats.waiting, stats.running)
        return QueueFull(
            f"{stats.waiting} requests are waiting and {stats.running} are being answered, which is all that there "
            f"is room for; try again in {seconds} s",
            code="queue_full",
            retry_after_seconds=seconds,
        )

    def seconds_until_served(self, waiting: int, running: int) -> int:
        """Whole seconds until those that wait have all been begun, by how long the last requests took."""
        if not self._service_ns:
            return _UNKNOWN_SECONDS
        each_ns = statistics.median(self._service_ns)
        seconds = math.ceil(waiting * each_ns / max(running, 1) / 1e9)
        return min(max(seconds, 1), _LONGEST_SECONDS)


__all__ = ["Door"]
