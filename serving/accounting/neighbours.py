"""What of the device's time is ours, where other programs compute on the same GPUs.

Programs on one GPU take turns, so what a step took holds the others' turns, too. About once a second the driver is asked
(NVML) who is there and how busy we kept the GPU; until it is asked again, that is our part of what steps take. What it
does not tell can't be known: of a MIG instance it lists the programs and does not count their use, and in a container
it may show nobody else.

    Use               what the driver says of one moment
    Neighbours        our part of a step's time
    ask_the_driver    a question to NVML about these GPUs
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

PARTS = 1_000_000
_WINDOW_NS = 1_000_000_000
_MOST_PERCENT = 100  # the driver fills the rest of its buffer with rubbish


@dataclass(frozen=True, slots=True)
class Use:
    """of_ours: how busy we kept the GPU, 0 to 1; None: not told. others: programs that compute there besides us."""

    of_ours: float | None
    others: int


Ask = Callable[[], Collection[Use]]  # one for each GPU; none: nothing was learnt. Raises nothing.


def nobody_else() -> Collection[Use]:
    """For devices that nobody can say it of."""
    return ()


class Neighbours:
    """Our part of the device's time, in whole millionths; all of it until somebody else is seen."""

    def __init__(self, ask: Ask, now_ns: int) -> None:
        self._ask = ask
        self._last_ns = now_ns
        self._measured_ns = 0
        self._seen_ns = 0
        self.parts = PARTS
        self.is_shared = False  # by what was seen last

    def ours(self, device_ns: int) -> int:
        """Our part of what a step took, and no more than that."""
        self._measured_ns += device_ns
        return device_ns * self.parts // PARTS

    def look(self, now_ns: int) -> None:
        """Asks when a window is over."""
        passed_ns = now_ns - self._last_ns
        if passed_ns < _WINDOW_NS:
            return
        worked = (self._measured_ns - self._seen_ns) / passed_ns
        self._last_ns, self._seen_ns = now_ns, self._measured_ns
        uses = self._ask()
        if uses:
            self.is_shared = any(use.others for use in uses)
            self.parts = min(_parts(use, worked) for use in uses)


def _parts(use: Use, worked: float) -> int:
    """worked: the part of the window that our steps took, the others' turns included.

    Where the driver saw nothing of ours yet, turns are taken to be equal. Where it does not count, all of it is ours.
    """
    if not use.others or use.of_ours is None or worked <= use.of_ours:
        return PARTS
    if use.of_ours == 0:
        return PARTS // (1 + use.others)
    return int(PARTS * use.of_ours / worked)


def ask_the_driver(gpu_ids: Sequence[str], our_pids: Collection[int]) -> Ask:
    """Where NVML is missing, or does not know these GPUs, nothing is ever learnt."""
    if not gpu_ids:
        return nobody_else
    try:
        import pynvml  # of the package nvidia-ml-py, which the extra "gpu" installs

        pynvml.nvmlInit()
        return questions(pynvml, gpu_ids, our_pids)
    except Exception as reason:  # NVML has an error class for each of its codes
        logger.info("whether others use our GPUs is not known: %s", reason)
        return nobody_else


def questions(nvml: Any, gpu_ids: Sequence[str], our_pids: Collection[int]) -> Ask:
    """nvml: the module pynvml. Raises NVMLError where it does not know a GPU."""
    gpus = [_Gpu(nvml, gpu_id, our_pids) for gpu_id in gpu_ids]

    def ask() -> Collection[Use]:
        try:
            return [gpu.use() for gpu in gpus]
        except nvml.NVMLError as error:
            logger.debug("the driver does not say who uses our GPUs: %s", error)
            return ()

    return ask


class _Gpu:
    def __init__(self, nvml: Any, gpu_id: str, our_pids: Collection[int]) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByUUID(gpu_id)
        self._our_pids = our_pids
        self._seen_us = 0

    def use(self) -> Use:
        """Raises NVMLError."""
        listed = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        running = {process.pid for process in listed}
        if running.isdisjoint(
            self._our_pids
        ):  # in a container our numbers are others than the driver's
            return Use(None, max(len(running) - 1, 0))
        others = running.difference(self._our_pids)
        if not others:
            return Use(None, 0)
        percents = self._percents(running)
        if percents is None:
            return Use(None, len(others))
        ours = sum(percents.get(pid, 0) for pid in self._our_pids)
        return Use(ours / 100, sum(percents.get(pid, 0) > 0 for pid in others) or len(others))

    def _percents(self, running: Collection[int]) -> dict[int, int] | None:
        """By process; who did nothing since the last time is not in it. None: not counted here."""
        nvml = self._nvml
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_us)
        except nvml.NVMLError as error:
            # pynvml takes an empty answer, which is a success, for an error
            return {} if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS) else None
        good = [each for each in samples if each.pid in running and each.smUtil <= _MOST_PERCENT]
        good.sort(key=lambda each: int(each.timeStamp))
        if good:
            self._seen_us = int(good[-1].timeStamp)
        return {each.pid: int(each.smUtil) for each in good}


__all__ = ["PARTS", "Ask", "Neighbours", "Use", "ask_the_driver", "nobody_else", "questions"]
