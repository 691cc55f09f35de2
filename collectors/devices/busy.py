"""How long each GPU was busy and how long it was idle, for whomever: readings of its utilization, added up.

The driver says which part of the last moment a GPU computed in. A reading is taken to hold since the one before, so that
busy and idle are the time between the first and the last, to the nanosecond. Over an hour of readings every ten seconds
that is near what was; of a minute it says little.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from collectors.devices.samples import DeviceSample

# Of the usual time between readings: after a longer one nobody knows what was in between.
_LONGEST_SHARE = 3


@dataclass(frozen=True, slots=True)
class BusyTime:
    """A device's, from a moment on; busy + idle is the time since then."""

    sample: DeviceSample
    started_unix_ns: int
    seen_unix_ns: int
    busy_ns: int = 0

    @property
    def idle_ns(self) -> int:
        return self.seen_unix_ns - self.started_unix_ns - self.busy_ns


class BusyTimes:
    """Of every GPU whose utilization is read. One that was not read for a while begins anew."""

    def __init__(self, interval_seconds: float) -> None:
        self._longest_ns = round(interval_seconds * _LONGEST_SHARE * 1e9)
        self._known: dict[str, BusyTime] = {}

    def add(self, samples: Sequence[DeviceSample], now_unix_ns: int) -> list[BusyTime]:
        """What is known after these readings."""
        self._known = {each.sample.device_id: each for each in self._added(samples, now_unix_ns)}
        return list(self._known.values())

    def _added(self, samples: Sequence[DeviceSample], now_ns: int) -> Iterator[BusyTime]:
        for sample in samples:
            if sample.device_type != "gpu" or sample.utilization is None:
                continue
            before = self._known.get(sample.device_id)
            if before is None or not 0 <= now_ns - before.seen_unix_ns <= self._longest_ns:
                yield BusyTime(sample, now_ns, now_ns)
                continue
            busy_ns = round((now_ns - before.seen_unix_ns) * min(max(sample.utilization, 0.0), 1.0))
            yield replace(
                before, sample=sample, seen_unix_ns=now_ns, busy_ns=before.busy_ns + busy_ns
            )


__all__ = ["BusyTime", "BusyTimes"]
