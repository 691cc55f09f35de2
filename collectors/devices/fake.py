"""Devices that are what they are told to be, for whoever has none. They keep the promises of real ones."""

from collections.abc import Iterable
from dataclasses import replace

from collectors.devices.samples import DeviceSample, Gap, Reading


class FakeDevices:
    """Say what they do with put(), lose() and find()."""

    def __init__(self, samples: Iterable[DeviceSample] = (), gaps: Iterable[Gap] = ()) -> None:
        self._samples = {sample.device_id: sample for sample in samples}
        self._lost: set[str] = set()
        self._gaps = list(gaps)

    def sample(self) -> Reading:
        samples = tuple(
            replace(sample.identity(), is_lost=True) if each in self._lost else sample
            for each, sample in self._samples.items()
        )
        return Reading(samples, tuple(gap for gap in self._gaps if gap.device_id not in self._lost))

    def put(self, sample: DeviceSample, *gaps: Gap) -> None:
        """This is what the device does from now on; the gaps are all that it has."""
        self._samples[sample.device_id] = sample
        self._gaps = [gap for gap in self._gaps if gap.device_id != sample.device_id] + list(gaps)

    def lose(self, device_id: str) -> None:
        """The device does not answer any more."""
        self._lost.add(device_id)

    def find(self, device_id: str) -> None:
        """It answers again."""
        self._lost.discard(device_id)
