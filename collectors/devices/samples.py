"""What a device is doing at one moment, and what it would not say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One process on one device; None: not known."""

    pid: int | None  # as the machine counts them; None: several processes as one
    name: str | None = None
    memory_used_bytes: int | None = None
    utilization: float | None = None  # 0 to 1, of the device's time
    container_id: str | None = None
    pod_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One device at one moment; None or empty: not counted here. A lost device has an identity and nothing else."""

    device_id: str
    device_type: str  # "gpu", "cpu"
    name: str = ""
    parent_id: str = ""  # the GPU of a MIG instance, the machine of a CPU package
    is_lost: bool = False  # it was there and does not answer any more
    utilization: float | None = None  # 0 to 1
    memory_controller_utilization: float | None = None  # 0 to 1
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None  # cumulative, since the driver was loaded
    clocks_hz: Mapping[str, int] = field(default_factory=dict)  # by domain: "sm", "memory"
    clock_limits_hz: Mapping[str, int] = field(default_factory=dict)
    temperatures_celsius: Mapping[str, float] = field(default_factory=dict)  # by sensor
    throttle_reasons: frozenset[str] | None = None  # that hold now; empty: none does
    throttled_seconds: Mapping[str, float] = field(default_factory=dict)  # cumulative, by cause
    errors: Mapping[str, int] = field(default_factory=dict)  # cumulative, by type
    processes: tuple[ProcessSample, ...] | None = None
    # Cumulative, over all cores, since the machine's start, by state: "busy", "idle".
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)

    def counters(self) -> list[str]:
        """Which counters this device has, in words; see COUNTERS."""
        has = (
            COUNTERS[each.name]
            for each in fields(self)
            if each.name in COUNTERS and getattr(self, each.name) not in (None, {})
        )
        return list(dict.fromkeys(has))

    def identity(self) -> "DeviceSample":
        """The same device, and nothing that was counted."""
        return DeviceSample(
            device_id=self.device_id,
            device_type=self.device_type,
            name=self.name,
            parent_id=self.parent_id,
        )


# What one call to a driver answers is one counter, whatever number of fields it fills.
COUNTERS = {
    "utilization": "utilization",
    "memory_controller_utilization": "utilization",
    "memory_used_bytes": "memory",
    "memory_total_bytes": "memory",
    "power_watts": "power",
    "power_limit_watts": "power_limit",
    "energy_joules": "energy",
    "clocks_hz": "clocks",
    "clock_limits_hz": "clock_limits",
    "temperatures_celsius": "temperature",
    "throttle_reasons": "throttling",
    "throttled_seconds": "throttled_time",
    "errors": "errors",
    "processes": "processes",
    "cpu_seconds": "cpu_time",
}


WHOLE_DEVICE = "device"  # a gap's counter where nothing of the device is sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something that is not sampled, and why."""

    device_id: str
    device_type: str
    counter: str  # one of COUNTERS, a part of one ("errors.corrected"), or WHOLE_DEVICE
    reason: str  # one of few, for machines: "not_supported", "no_permission", "no_driver", …
    because: str  # the same for people, with what to do


@dataclass(frozen=True, slots=True)
class Reading:
    """Every device at one moment, and what is missing."""

    samples: tuple[DeviceSample, ...] = ()
    gaps: tuple[Gap, ...] = ()


class Devices(Protocol):
    """Devices of one kind.

    A device keeps its id for as long as it is there. Cumulative counters only grow until the device or its driver
    starts anew. What is not counted is absent from a sample, never zero, and has a gap that says why; only what no
    device of its kind could count (a MIG instance's power) is left out in silence.
    """

    def sample(self) -> Reading:
        """Every device as it is now. One that was lost since stays, as lost."""


class AllDevices:
    """Devices of several kinds as one."""

    def __init__(self, *kinds: Devices) -> None:
        self._kinds = kinds

    def sample(self) -> Reading:
        return merged(kind.sample() for kind in self._kinds)


def merged(readings: Iterable[Reading]) -> Reading:
    """Several readings as one, in their order; a gap that is said twice once."""
    parts: Sequence[Reading] = list(readings)
    gaps = dict.fromkeys(gap for part in parts for gap in part.gaps)
    return Reading(tuple(sample for part in parts for sample in part.samples), tuple(gaps))
