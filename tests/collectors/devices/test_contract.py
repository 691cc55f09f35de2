"""What every kind of devices promises; see collectors.devices.samples.Devices."""

from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from collectors.devices import (
    AllDevices,
    CpuDevices,
    Devices,
    DeviceSample,
    FakeDevices,
    Gap,
    NvmlDevices,
    Reading,
)
from collectors.devices.samples import COUNTERS
from tests.collectors.devices.library import Gpu, Library, full, memory
from tests.collectors.devices.machine import powercap, proc

GPU_COUNTERS = set(COUNTERS.values()) - {"cpu_time"}
INSTANCE_COUNTERS = {"memory", "processes"}


def fake(_: Path) -> Devices:
    """A GPU that denies what it can, one that was lost, and a part of one."""
    gaps = [
        Gap(device_id="GPU-1", device_type="gpu", counter=each, reason="no_permission", because="")
        for each in GPU_COUNTERS - {"energy"}
    ]
    devices = FakeDevices(
        [
            DeviceSample(device_id="GPU-1", device_type="gpu", energy_joules=1.0),
            DeviceSample(device_id="GPU-2", device_type="gpu", energy_joules=1.0),
            DeviceSample(
                device_id="MIG-1",
                device_type="gpu",
                parent_id="GPU-1",
                memory_used_bytes=0,
                processes=(),
            ),
        ],
        gaps,
    )
    devices.lose("GPU-2")
    return devices


def nvml(folder: Path) -> Devices:
    """A full GPU, one that counts nothing, a divided one, and one that is lost."""
    instance = Gpu("MIG-1", {"nvmlDeviceGetMemoryInfo": memory(1, 10)}, "H100 MIG 1g.10gb")
    divided, lost = full("GPU-3", instances={2: instance}), full("GPU-4")
    library = Library(full(), Gpu("GPU-2"), divided, lost)
    devices = NvmlDevices(library, proc(folder / "proc", {100: ("python", "/")}))
    devices.sample()
    lost.failure = pynvml.NVMLError_GpuIsLost
    return devices


def cpu(folder: Path) -> Devices:
    return CpuDevices(powercap(folder / "powercap", rapl_0=("package-0", 5)))


def real_nvml(_: Path) -> Devices:
    return NvmlDevices()


KINDS = [
    fake,
    nvml,
    cpu,
    lambda folder: AllDevices(nvml(folder), cpu(folder)),
    pytest.param(real_nvml, marks=pytest.mark.gpu),
]


@pytest.fixture(params=KINDS, ids=["fake", "nvml", "cpu", "all", "real nvml"])
def readings(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Reading, Reading]:
    """Two readings, one after the other."""
    make: Callable[[Path], Devices] = request.param
    devices = make(tmp_path)
    return devices.sample(), devices.sample()


def test_each_device_has_an_id_of_its_own_and_keeps_it(readings: tuple[Reading, Reading]) -> None:
    first, second = ([sample.device_id for sample in reading.samples] for reading in readings)
    assert first
    assert all(first)
    assert first == second
    assert len(set(first)) == len(first)


def test_shares_are_shares_and_what_is_used_fits(readings: tuple[Reading, Reading]) -> None:
    for sample in readings[1].samples:
        for share in (sample.utilization, sample.memory_controller_utilization):
            assert share is None or 0 <= share <= 1
        if sample.memory_used_bytes is not None and sample.memory_total_bytes is not None:
            assert 0 <= sample.memory_used_bytes <= sample.memory_total_bytes
        for process in sample.processes or ():
            assert process.utilization is None or 0 <= process.utilization <= 1


def test_cumulative_counters_only_grow(readings: tuple[Reading, Reading]) -> None:
    for earlier, later in zip(readings[0].samples, readings[1].samples, strict=True):
        if earlier.energy_joules is not None:
            assert later.energy_joules is not None
            assert earlier.energy_joules <= later.energy_joules
        for field in ("throttled_seconds", "errors"):
            for name, value in getattr(earlier, field).items():
                assert value <= getattr(later, field)[name]
        for state, seconds in earlier.cpu_seconds.items():
            assert seconds <= later.cpu_seconds[state] + 0.1  # Linux takes some waiting back


def test_every_counter_of_a_gpu_is_read_or_has_a_gap_that_says_why(
    readings: tuple[Reading, Reading],
) -> None:
    reading = readings[1]
    for sample in reading.samples:
        if sample.device_type == "gpu" and not sample.is_lost:
            gaps = {gap.counter for gap in reading.gaps if gap.device_id == sample.device_id}
            assert not gaps & set(sample.counters())
            wanted = INSTANCE_COUNTERS if sample.parent_id else GPU_COUNTERS
            assert wanted <= gaps | set(sample.counters())


def test_a_part_of_a_gpu_has_no_counters_of_the_whole(readings: tuple[Reading, Reading]) -> None:
    for sample in readings[1].samples:
        if sample.device_type == "gpu" and sample.parent_id:
            assert sample.parent_id in {each.device_id for each in readings[1].samples}
            assert set(sample.counters()) <= INSTANCE_COUNTERS


def test_a_lost_device_has_nothing_but_its_identity(readings: tuple[Reading, Reading]) -> None:
    for sample in readings[1].samples:
        if sample.is_lost:
            assert sample.counters() == []


def test_a_process_is_once_on_a_device(readings: tuple[Reading, Reading]) -> None:
    for sample in readings[1].samples:
        pids = [process.pid for process in sample.processes or ()]
        assert len(set(pids)) == len(pids)
