"""NVIDIA's GPUs and their MIG instances, through the driver's management library (NVML)."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml

from collectors.devices import mig
from collectors.devices.containers import PROC
from collectors.devices.gpu import sample_gpu
from collectors.devices.inquiry import DeviceLost, Inquiry, Nvml, gap_of
from collectors.devices.processes import Processes
from collectors.devices.samples import WHOLE_DEVICE, DeviceSample, Gap, Reading, merged

_LONGEST_PAUSE = 64  # readings


class NvmlDevices:
    """Every GPU that the driver lets us see. No driver is a gap, and is looked for again at every reading."""

    def __init__(self, nvml: Nvml = pynvml, proc: Path = PROC) -> None:
        self._nvml = nvml
        self._processes = Processes(nvml, proc)
        self._is_open = False
        self._known: dict[str, DeviceSample] = {}  # identities of the GPUs that were ever read
        self._pause = self._until_reopened = 1

    def sample(self) -> Reading:
        try:
            self._open()
            count = self._nvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._close()
            return Reading(self._lost(()), (gap_of(error, "", WHOLE_DEVICE),))
        found = merged(self._sample(index) for index in range(count))
        gaps = found.gaps if count or self._known else (_NO_GPU,)
        lost = self._lost(found.samples)
        self._consider_reopening(bool(lost))
        # A GPU that is too lost to say its name is one of those that are known to be lost.
        nameless = [gap for gap in gaps if (gap.counter, gap.reason) == (WHOLE_DEVICE, "lost")]
        told = nameless[: len(lost)]
        return Reading((*found.samples, *lost), tuple(gap for gap in gaps if gap not in told))

    def _open(self) -> None:
        if not self._is_open:
            self._nvml.nvmlInit()
            self._is_open = True

    def _close(self) -> None:
        if self._is_open:
            with suppress(pynvml.NVMLError):  # it is given up in any case
                self._nvml.nvmlShutdown()
            self._is_open = False

    def _consider_reopening(self, is_any_lost: bool) -> None:
        """A GPU that was reset is found by a fresh library only.

        With growing pauses: where nothing else keeps the driver's state, each time costs the others their counters.
        """
        if not is_any_lost:
            self._pause = self._until_reopened = 1
            return
        self._until_reopened -= 1
        if self._until_reopened == 0:
            self._close()
            self._pause = self._until_reopened = min(2 * self._pause, _LONGEST_PAUSE)

    def _lost(self, found: Iterable[DeviceSample]) -> tuple[DeviceSample, ...]:
        there = {sample.device_id for sample in found}
        known = self._known.items()
        return tuple(replace(gpu, is_lost=True) for each, gpu in known if each not in there)

    def _sample(self, index: int) -> Reading:
        """The GPU in this place and its instances; nothing where it is lost."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            identity = self._identity(handle)
        except pynvml.NVMLError as error:
            return Reading((), (gap_of(error, f"gpu-{index}", WHOLE_DEVICE),))
        self._known[identity.device_id] = identity
        try:
            return merged(self._parts(handle, identity))
        except DeviceLost:
            return Reading()

    def _identity(self, handle: Any) -> DeviceSample:
        return DeviceSample(
            device_id=self._nvml.nvmlDeviceGetUUID(handle),
            device_type="gpu",
            name=self._nvml.nvmlDeviceGetName(handle),
        )

    def _parts(self, handle: Any, identity: DeviceSample) -> Iterator[Reading]:
        """The GPU, then its instances. In a divided one processes belong to the instances, or they count twice."""
        inquiry = Inquiry(identity.device_id)
        gpu = sample_gpu(self._nvml, handle, identity, inquiry)
        places = mig.places(self._nvml, handle, inquiry)
        is_whole = places is None
        processes = self._processes.on_gpu(handle, gpu.utilization, inquiry) if is_whole else ()
        yield Reading((replace(gpu, processes=processes),), inquiry.gaps)
        for place in range(places or 0):
            yield mig.sample_instance(self._nvml, handle, place, gpu, self._processes)


_NO_GPU = Gap(
    device_id="",
    device_type="gpu",
    counter=WHOLE_DEVICE,
    reason="no_gpu",
    because="the driver lists none; a container sees those that it was given",
)
