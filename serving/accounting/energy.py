"""What the device's energy was for.

A counter moves slowly and counts the whole device, so no energy is claimed for a step: it is read about once a second,
what the device takes while it does nothing is set apart, and the rest becomes a price of a busy nanosecond, for the
window that follows. What a price got wrong is made up for by the next one, so nothing is lost or charged twice.

    find_counter   the device's counter, or None where there is none to read
    EnergyBooks    charges, and what is left
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.accounting.neighbours import PARTS

logger = logging.getLogger(__name__)

Counter = Callable[[], int]  # microjoules since some time, never falling

_WINDOW_NS = 1_000_000_000
_POWERCAP = Path("/sys/class/powercap")


class EnergyBooks:
    """Microjoules, whole: what was read is charged, idle, others', or left for the next window, to the last one."""

    def __init__(self, read_uj: Counter, now_ns: int) -> None:
        self._read_uj = read_uj
        self._last_uj, self._last_ns, self._last_busy_ns = read_uj(), now_ns, 0
        self._asked_ns = now_ns
        self._idle_uj_per_ns: float | None = None
        self._price_uj_per_ns = 0.0
        self.charged_uj = 0
        self.idle_uj = 0
        self.others_uj = 0
        self.left_uj = 0

    def look(
        self, now_ns: int, busy_ns: int, parts: int = PARTS, *, is_shared: bool = False
    ) -> None:
        """busy_ns is the device's for us since the start. Reads the counter when a window is over; where that fails, the
        window goes on until it can be read.

        parts        of a million, that are ours of what the device takes beyond its idle state
        is_shared    others compute on it too, so that what it takes without us is not its idle state
        """
        if now_ns - self._asked_ns < _WINDOW_NS:
            return
        self._asked_ns = now_ns
        reading_uj = self._reading_uj()
        if reading_uj is None:
            return
        passed_ns = now_ns - self._last_ns
        used_uj, worked_ns = reading_uj - self._last_uj, busy_ns - self._last_busy_ns
        self._last_uj, self._last_ns, self._last_busy_ns = reading_uj, now_ns, busy_ns
        if worked_ns <= 0 and not is_shared:
            self._learn_idle(used_uj / passed_ns)
        idle_uj = used_uj
        if worked_ns > 0 or is_shared:
            idle_uj = min(used_uj, round((self._idle_uj_per_ns or 0.0) * passed_ns))
        ours_uj = (used_uj - idle_uj) * parts // PARTS if worked_ns > 0 else 0
        self.idle_uj += idle_uj
        self.others_uj += used_uj - idle_uj - ours_uj
        self.left_uj += ours_uj
        if worked_ns > 0:
            self._price_uj_per_ns = max(self.left_uj / worked_ns, 0.0)

    def _reading_uj(self) -> int | None:
        """None where the counter can't be read now: nobody's answer is to fail for that."""
        try:
            return self._read_uj()
        except Exception as reason:  # NVML has an error class for each of its codes
            logger.warning("the energy counter cannot be read, and is asked again soon: %s", reason)
            return None

    def charge(self, device_ns: int) -> int:
        """What device_ns of somebody's work took, by the last window's price."""
        energy_uj = round(self._price_uj_per_ns * device_ns)
        self.charged_uj += energy_uj
        self.left_uj -= energy_uj
        return energy_uj

    def _learn_idle(self, uj_per_ns: float) -> None:
        """The least that was seen: a device that has just worked takes a while to calm down."""
        before = self._idle_uj_per_ns
        self._idle_uj_per_ns = uj_per_ns if before is None else min(before, uj_per_ns)


def find_counter(device_type: str, gpu_ids: Sequence[str] = ()) -> Counter | None:
    """The counter of these GPUs ("cuda") or of all CPU packages ("cpu"). None where it is missing or may not be read, as of
    a part of a GPU (MIG): only the whole has one."""
    try:
        is_gpu = device_type == "cuda"
        counter = _nvml_counter(gpu_ids) if is_gpu else _powercap_counter(_POWERCAP)
        if counter is not None:
            counter()
    except Exception as reason:  # NVML has an error class for each of its codes
        logger.info("no energy is told: %s", reason)
        return None
    return counter


def _powercap_counter(folder: Path) -> Counter | None:
    """Sums the packages; each wraps around at its own range."""
    packages = [zone for zone in sorted(folder.glob("*:*")) if zone.name.count(":") == 1]
    if not packages:
        return None
    ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in packages]
    last = [0] * len(packages)
    turns = [0] * len(packages)

    def read_uj() -> int:
        for index, zone in enumerate(packages):
            reading = int((zone / "energy_uj").read_text())
            turns[index] += reading < last[index]
            last[index] = reading
        return sum(last) + sum(turn * size for turn, size in zip(turns, ranges, strict=True))

    return read_uj


def _nvml_counter(gpu_ids: Sequence[str]) -> Counter:
    """Raises NVMLError."""
    import pynvml  # of the package nvidia-ml-py, which the extra "gpu" installs

    pynvml.nvmlInit()
    gpus = [pynvml.nvmlDeviceGetHandleByUUID(gpu_id) for gpu_id in gpu_ids]
    return lambda: sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) * 1_000 for gpu in gpus)


__all__ = ["Counter", "EnergyBooks", "find_counter"]
