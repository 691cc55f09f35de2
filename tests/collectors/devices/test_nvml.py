"""GPUs through NVIDIA's library: what each answer becomes, and what becomes of refusals, losses and returns."""

from pathlib import Path

import pynvml
import pytest

from collectors.devices import DeviceSample, NvmlDevices, ProcessSample
from tests.collectors.devices.library import (
    GIB,
    Gpu,
    Library,
    full,
    memory,
    memory_temperature,
    process,
)
from tests.collectors.devices.machine import CONTAINER, POD, kubernetes, proc

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return proc(tmp_path / "proc", {100: ("vllm", kubernetes()), 200: ("python", "/user.slice")})


def reasons(devices: NvmlDevices) -> dict[tuple[str, str], str]:
    return {(gap.device_id, gap.counter): gap.reason for gap in devices.sample().gaps}


def test_a_gpu_is_read_whole(machine: Path) -> None:
    reading = NvmlDevices(Library(full()), machine).sample()
    assert reading.gaps == ()
    assert reading.samples == (
        DeviceSample(
            device_id="GPU-1",
            device_type="gpu",
            name=H100,
            utilization=0.5,
            memory_controller_utilization=0.25,
            memory_used_bytes=60 * GIB,
            memory_total_bytes=80 * GIB,
            power_watts=350.5,
            power_limit_watts=700.0,
            energy_joules=1234.567,
            clocks_hz={"sm": 1_755_000_000, "memory": 2_619_000_000},
            clock_limits_hz={"sm": 1_980_000_000, "memory": 2_619_000_000},
            temperatures_celsius={"gpu": 61, "memory": 72},
            throttle_reasons=frozenset(
                {"power_cap"}
            ),  # an idle GPU's lower clocks hold nothing back
            throttled_seconds={
                "power": 0.0,
                "thermal": 1.5,
                "sync_boost": 0.0,
                "board_limit": 0.0,
                "low_utilization": 0.0,
                "reliability": 0.0,
            },
            errors={"corrected": 3, "uncorrected": 1, "pcie_replay": 2},
            processes=(
                ProcessSample(
                    pid=100,
                    name="vllm",
                    memory_used_bytes=50 * GIB,
                    utilization=0.48,
                    container_id=CONTAINER,
                    pod_uid=POD,
                ),
                ProcessSample(pid=200, name="python", memory_used_bytes=GIB),
            ),
        ),
    )


def test_what_is_refused_is_absent_and_named_with_its_reason(machine: Path) -> None:
    gpu = full()
    gpu.deny(pynvml.NVMLError_NotSupported, "nvmlDeviceGetTotalEnergyConsumption")
    gpu.deny(pynvml.NVMLError_NoPermission, "nvmlDeviceGetProcessUtilization")
    gpu.deny(pynvml.NVMLError_FunctionNotFound, "nvmlDeviceGetPowerUsage")
    gpu.deny(pynvml.NVMLError_Unknown, "nvmlDeviceGetUtilizationRates")
    devices = NvmlDevices(Library(gpu), machine)
    assert reasons(devices) == {
        ("GPU-1", "energy"): "not_supported",
        ("GPU-1", "processes.utilization"): "no_permission",
        ("GPU-1", "power"): "old_driver",
        ("GPU-1", "utilization"): "nvml_999",
    }
    [sample] = devices.sample().samples
    assert sample.energy_joules is None
    assert sample.power_watts is None
    assert sample.utilization is None
    assert sample.memory_controller_utilization is None
    assert sample.processes is not None
    assert {process.utilization for process in sample.processes} == {None}
    assert {process.memory_used_bytes for process in sample.processes} == {50 * GIB, GIB}


def test_of_several_values_the_refused_ones_alone_are_missing(machine: Path) -> None:
    gpu = full()
    gpu.answers["nvmlDeviceGetFieldValues"] = memory_temperature(0, pynvml.NVML_ERROR_NOT_SUPPORTED)
    corrected, uncorrected = (
        pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    )
    for kind in (corrected, uncorrected):
        gpu.answer(
            "nvmlDeviceGetTotalEccErrors",
            kind,
            pynvml.NVML_AGGREGATE_ECC,
            by=pynvml.NVMLError_NotSupported,
        )
    devices = NvmlDevices(Library(gpu), machine)
    assert reasons(devices) == {
        ("GPU-1", "temperature.memory"): "not_supported",
        ("GPU-1", "errors.corrected"): "not_supported",
        ("GPU-1", "errors.uncorrected"): "not_supported",
    }
    [sample] = devices.sample().samples
    assert sample.temperatures_celsius == {"gpu": 61}
    assert sample.errors == {"pcie_replay": 2}


def test_an_older_driver_says_by_its_older_name_why_clocks_are_held_back(machine: Path) -> None:
    gpu = full()
    gpu.deny(pynvml.NVMLError_FunctionNotFound, "nvmlDeviceGetCurrentClocksEventReasons")
    thermal = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    gpu.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = thermal
    [sample] = NvmlDevices(Library(gpu), machine).sample().samples
    assert sample.throttle_reasons == {"hardware_thermal"}


def test_an_older_driver_says_how_much_memory_is_used_in_its_older_way(machine: Path) -> None:
    gpu = full()
    gpu.deny(pynvml.NVMLError_FunctionNotFound, "nvmlDeviceGetMemoryInfo")
    gpu.answer("nvmlDeviceGetMemoryInfo", by=pynvml.c_nvmlMemory_t(total=80, free=20, used=60))
    [sample] = NvmlDevices(Library(gpu), machine).sample().samples
    assert (sample.memory_used_bytes, sample.memory_total_bytes) == (60, 80)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (pynvml.NVMLError_LibraryNotFound, "no_driver"),
        (pynvml.NVMLError_DriverNotLoaded, "no_driver"),
        (pynvml.NVMLError_LibRmVersionMismatch, "driver_replaced"),
    ],
)
def test_a_driver_that_comes_later_is_found_then(
    machine: Path, error: type[pynvml.NVMLError], reason: str
) -> None:
    library = Library(full())
    library.failure = error
    devices = NvmlDevices(library, machine)
    assert devices.sample().samples == ()
    assert reasons(devices) == {("", "device"): reason}
    library.failure = None
    assert [sample.device_id for sample in devices.sample().samples] == ["GPU-1"]
    assert devices.sample().gaps == ()


def test_a_driver_without_a_gpu_is_a_gap(machine: Path) -> None:
    assert reasons(NvmlDevices(Library(), machine)) == {("", "device"): "no_gpu"}


def test_a_gpu_that_this_container_may_not_open_hides_no_other(machine: Path) -> None:
    library = Library(hidden := full("GPU-1"), full("GPU-2"))
    hidden.failure = pynvml.NVMLError_NoPermission
    devices = NvmlDevices(library, machine)
    assert [sample.device_id for sample in devices.sample().samples] == ["GPU-2"]
    assert reasons(devices) == {("gpu-0", "device"): "no_permission"}


@pytest.mark.parametrize(
    ("error", "gaps"),
    [
        (pynvml.NVMLError_GpuIsLost, {}),
        (pynvml.NVMLError_ResetRequired, {}),
        (pynvml.NVMLError_Unknown, {("gpu-0", "device"): "nvml_999"}),
    ],
)
def test_a_lost_gpu_stays_as_lost_until_it_comes_back(
    machine: Path, error: type[pynvml.NVMLError], gaps: dict[tuple[str, str], str]
) -> None:
    library = Library(gpu := full("GPU-1"), full("GPU-2"))
    devices = NvmlDevices(library, machine)
    devices.sample()
    gpu.failure = error
    there, lost = devices.sample().samples
    assert there.device_id == "GPU-2"
    assert there.utilization == 0.5
    assert lost == DeviceSample(device_id="GPU-1", device_type="gpu", name=H100, is_lost=True)
    assert reasons(devices) == gaps
    gpu.failure = None
    back, _ = devices.sample().samples
    assert (back.device_id, back.is_lost, back.utilization) == ("GPU-1", False, 0.5)


def test_a_gpu_that_is_lost_while_it_is_read_has_no_half_of_its_values(machine: Path) -> None:
    library = Library(gpu := full())
    devices = NvmlDevices(library, machine)
    devices.sample()
    gpu.deny(pynvml.NVMLError_GpuIsLost, "nvmlDeviceGetTotalEnergyConsumption")
    [sample] = devices.sample().samples
    assert sample.is_lost
    assert sample.counters() == []


def test_a_gpu_that_was_lost_before_we_came_is_a_gap(machine: Path) -> None:
    library = Library(gpu := full())
    gpu.failure = pynvml.NVMLError_GpuIsLost
    assert reasons(NvmlDevices(library, machine)) == {("gpu-0", "device"): "lost"}


def test_a_gpu_that_the_driver_lists_no_more_is_lost(machine: Path) -> None:
    library = Library(full("GPU-1"), full("GPU-2"))
    devices = NvmlDevices(library, machine)
    devices.sample()
    library.gpus.pop()
    _, lost = devices.sample().samples
    assert (lost.device_id, lost.is_lost) == ("GPU-2", True)


def test_without_its_driver_every_gpu_is_lost_and_with_it_found_again(machine: Path) -> None:
    library = Library(full())
    devices = NvmlDevices(library, machine)
    devices.sample()
    library.failure = pynvml.NVMLError_DriverNotLoaded
    [lost] = devices.sample().samples
    assert lost.is_lost
    assert reasons(devices) == {("", "device"): "no_driver"}
    library.failure = None
    [back] = devices.sample().samples
    assert not back.is_lost
    assert library.times_opened == 2


def test_for_a_lost_gpu_the_library_is_opened_anew_ever_more_rarely(machine: Path) -> None:
    library = Library(gpu := full("GPU-1"), full("GPU-2"))
    devices = NvmlDevices(library, machine)
    devices.sample()
    gpu.failure = pynvml.NVMLError_GpuIsLost
    opened = []
    for _ in range(200):
        devices.sample()
        opened.append(library.times_opened)
    anew = [at for at in range(1, 200) if opened[at] > opened[at - 1]]
    assert anew == [1, 3, 7, 15, 31, 63, 127, 191]
    gpu.failure = None
    for _ in range(10):
        devices.sample()
    assert library.times_opened == opened[-1]


def test_an_instance_has_its_own_memory_and_processes_and_nothing_of_the_whole(
    machine: Path,
) -> None:
    instance = Gpu(
        "MIG-1",
        {
            "nvmlDeviceGetMemoryInfo": memory(4 * GIB, 10 * GIB),
            "nvmlDeviceGetComputeRunningProcesses_v3": [process(100, 3 * GIB)],
        },
        "NVIDIA H100 MIG 1g.10gb",
    )
    gpu = full(instances={3: instance})
    gpu.deny(pynvml.NVMLError_NotSupported, "nvmlDeviceGetUtilizationRates")
    whole, part = NvmlDevices(Library(gpu), machine).sample().samples
    assert whole.processes == ()  # they are the instance's, or would count twice
    assert whole.power_watts == 350.5
    assert part == DeviceSample(
        device_id="MIG-1",
        device_type="gpu",
        name="NVIDIA H100 MIG 1g.10gb",
        parent_id="GPU-1",
        memory_used_bytes=4 * GIB,
        memory_total_bytes=10 * GIB,
        processes=(
            ProcessSample(
                pid=100,
                name="vllm",
                memory_used_bytes=3 * GIB,
                container_id=CONTAINER,
                pod_uid=POD,
            ),
        ),
    )


def test_an_instance_that_is_not_ours_to_see_hides_no_other(machine: Path) -> None:
    hidden = Gpu("MIG-1", failure=pynvml.NVMLError_NoPermission)
    seen = Gpu("MIG-2", {"nvmlDeviceGetMemoryInfo": memory(1, 10)})
    devices = NvmlDevices(Library(full(instances={0: hidden, 1: seen})), machine)
    assert [sample.device_id for sample in devices.sample().samples] == ["GPU-1", "MIG-2"]
    assert reasons(devices) == {
        ("GPU-1/mig-0", "device"): "no_permission",
        ("MIG-2", "processes"): "not_supported",
    }


def test_with_a_lost_instance_its_gpu_is_lost(machine: Path) -> None:
    library = Library(full(instances={0: Gpu("MIG-1", failure=pynvml.NVMLError_GpuIsLost)}))
    reading = NvmlDevices(library, machine).sample()
    assert [(sample.device_id, sample.is_lost) for sample in reading.samples] == [("GPU-1", True)]
    assert reading.gaps == ()


@pytest.mark.gpu
def test_a_real_gpu_has_a_real_ones_values() -> None:
    for sample in NvmlDevices().sample().samples:
        assert sample.device_id.startswith(("GPU-", "MIG-"))
        assert sample.name
        assert sample.memory_total_bytes is None or sample.memory_total_bytes > GIB
        assert sample.power_watts is None or 1 < sample.power_watts < 5000
        assert all(0 < celsius < 120 for celsius in sample.temperatures_celsius.values())
        assert all(10**7 < hz < 10**11 for hz in sample.clocks_hz.values())
