"""The devices' time when something else than the engine computes on the first one too.

The engine knows its own steps only; what lies between them it calls idle. Work that is done beside it is charged what the
engine's books say was idle meanwhile, and never more than it took: so the three states still sum to the wall time, and no
nanosecond is charged twice. Where the engine is busy all the time, work beside it is free, which is wrong by as much as it
slows the engine's steps down; these are charged for it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from serving.engine.request import DeviceClock

Result = TypeVar("Result")


class DeviceBooks:
    """engine_clock's figures never fall; nor do those of clocks()."""

    def __init__(self, engine_clock: Callable[[], DeviceClock]) -> None:
        self._engine_clock = engine_clock
        self._beside_ns = 0
        self._turn = threading.Lock()  # one at a time works beside the engine
        self._lock = threading.Lock()
        # where work is under way: what was known at its begin
        self._until: Sequence[DeviceClock] | None = None

    def charge(self, work: Callable[[], Result]) -> tuple[Result, int]:
        """Do the work, and say how many nanoseconds of the device it is charged. Work that fails is charged to nobody."""
        with self._turn:
            before = self._begin()
            began_ns = time.monotonic_ns()
            device_ns = 0
            try:
                result = work()
                device_ns = time.monotonic_ns() - began_ns
            finally:
                device_ns = self._end(before, device_ns)
            return result, device_ns

    def _begin(self) -> DeviceClock:
        with self._lock:
            before = self._engine_clock()
            self._until = self._all(before)
            return before

    def _end(self, before: DeviceClock, took_ns: int) -> int:
        with self._lock:
            idle_ns = self._engine_clock().idle_ns - before.idle_ns
            device_ns = min(took_ns, idle_ns)
            self._beside_ns += device_ns
            self._until = None
            return device_ns

    def clocks(self) -> Sequence[DeviceClock]:
        """Where each device's time went; the first is the one that works beside the engine, too. While such work is under
        way, up to its begin."""
        with self._lock:
            return self._until or self._all(self._engine_clock())

    def _all(self, engine: DeviceClock) -> Sequence[DeviceClock]:
        first = replace(
            engine,
            attributed_ns=engine.attributed_ns + self._beside_ns,
            idle_ns=engine.idle_ns - self._beside_ns,
        )
        return [first, *[engine] * (engine.devices - 1)]


__all__ = ["DeviceBooks"]
