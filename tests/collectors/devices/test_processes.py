"""Who uses a GPU: what the driver says of processes, and what of it can be trusted."""

from pathlib import Path

import pynvml
import pytest

from collectors.devices import NvmlDevices, ProcessSample
from tests.collectors.devices.library import GIB, Gpu, Library, full, process, share
from tests.collectors.devices.machine import proc


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return proc(tmp_path / "proc", dict.fromkeys(range(1, 60), ("python", "/")))


def shares(devices: NvmlDevices) -> dict[int | None, float | None]:
    [sample] = devices.sample().samples
    return {process.pid: process.utilization for process in sample.processes or ()}


def gpu_with(*running: object, **answers: object) -> Gpu:
    gpu = full()
    gpu.answers |= {"nvmlDeviceGetComputeRunningProcesses_v3": list(running), **answers}
    return gpu


def test_utilization_is_asked_for_since_the_last_time(machine: Path) -> None:
    asked: list[int] = []

    def answer(since_us: int) -> list[object]:
        asked.append(since_us)
        return [share(1, since_us + 1000, 30), share(1, since_us + 500, 10)]

    gpu = gpu_with(process(1, GIB), nvmlDeviceGetProcessUtilization=answer)
    devices = NvmlDevices(Library(gpu), machine)
    assert [shares(devices), shares(devices)] == [{1: 0.3}, {1: 0.3}]
    assert asked == [0, 1000]


def test_rubbish_in_the_drivers_buffer_is_nobodys_utilization(machine: Path) -> None:
    rubbish = [share(1, 5, 20), share(1, 2**60, 4_000_000), share(0, 9, 7), share(77, 9, 90)]
    asked: list[int] = []

    def answer(since_us: int) -> list[object]:
        asked.append(since_us)
        return rubbish

    gpu = gpu_with(process(1, GIB), nvmlDeviceGetProcessUtilization=answer)
    devices = NvmlDevices(Library(gpu), machine)
    assert [shares(devices), shares(devices)] == [{1: 0.2}, {1: 0.2}]
    assert asked == [0, 5]


def nothing(_: int) -> object:
    raise pynvml.NVMLError(pynvml.NVML_SUCCESS)  # pynvml's own answer to an empty buffer


@pytest.mark.parametrize("answer", [pynvml.NVMLError_NotFound, nothing])
@pytest.mark.parametrize(("device", "expected"), [(0, 0.0), (50, None)])
def test_a_process_that_is_not_listed_is_idle_only_on_an_idle_device(
    machine: Path, answer: object, device: int, expected: float | None
) -> None:
    gpu = gpu_with(
        process(1, GIB),
        nvmlDeviceGetProcessUtilization=answer,
        nvmlDeviceGetUtilizationRates=pynvml.c_nvmlUtilization_t(gpu=device, memory=0),
    )
    assert shares(NvmlDevices(Library(gpu), machine)) == {1: expected}


def test_a_process_of_several_kinds_is_one(machine: Path) -> None:
    gpu = gpu_with(process(1, 5), process(2, None))
    gpu.answers["nvmlDeviceGetGraphicsRunningProcesses_v3"] = [process(1, 5), process(3, 1)]
    gpu.deny(pynvml.NVMLError_FunctionNotFound, "nvmlDeviceGetMPSComputeRunningProcesses_v3")
    gpu.deny(pynvml.NVMLError_FunctionNotFound, "nvmlDeviceGetMPSComputeRunningProcesses_v2")
    reading = NvmlDevices(Library(gpu), machine).sample()
    assert reading.gaps == ()
    found = {each.pid: each.memory_used_bytes for each in reading.samples[0].processes or ()}
    assert found == {1: 5, 3: 1, 2: None}


def test_what_is_refused_twice_is_missing_once(machine: Path) -> None:
    gpu = gpu_with(process(1, GIB))
    for kind in ("Graphics", "MPSCompute"):
        gpu.deny(pynvml.NVMLError_NoPermission, f"nvmlDeviceGet{kind}RunningProcesses_v3")
    [gap] = NvmlDevices(Library(gpu), machine).sample().gaps
    assert (gap.counter, gap.reason) == ("processes.others", "no_permission")


def test_an_older_driver_lists_its_processes_in_its_older_way(machine: Path) -> None:
    gpu = full()
    for kind in ("Compute", "Graphics", "MPSCompute"):
        function = f"nvmlDeviceGet{kind}RunningProcesses"
        gpu.deny(pynvml.NVMLError_FunctionNotFound, f"{function}_v3")
        gpu.answers[f"{function}_v2"] = [process(1, GIB)]
    reading = NvmlDevices(Library(gpu), machine).sample()
    assert reading.gaps == ()
    assert [each.pid for each in reading.samples[0].processes or ()] == [1]


def test_beyond_the_largest_processes_the_rest_is_one(machine: Path) -> None:
    running = [process(pid, pid * GIB) for pid in range(1, 41)]
    used = [share(pid, 10, 1) for pid in range(1, 41)]
    gpu = gpu_with(*running, nvmlDeviceGetProcessUtilization=used)
    [sample] = NvmlDevices(Library(gpu), machine).sample().samples
    assert sample.processes is not None
    *named, rest = sample.processes
    assert [each.pid for each in named] == list(range(40, 8, -1))
    assert rest == ProcessSample(
        pid=None, name="other", memory_used_bytes=36 * GIB, utilization=pytest.approx(0.08)
    )


def test_a_rest_of_which_a_part_is_unknown_has_no_sum(machine: Path) -> None:
    running = [process(pid, pid * GIB) for pid in range(1, 41)] + [process(41, None)]
    used = [share(pid, 10, 1) for pid in range(1, 40)]
    gpu = gpu_with(*running, nvmlDeviceGetProcessUtilization=used)
    [sample] = NvmlDevices(Library(gpu), machine).sample().samples
    assert sample.processes is not None
    assert sample.processes[-1] == ProcessSample(pid=None, name="other")


def test_in_a_pid_namespace_of_its_own_the_agent_takes_no_pid_for_another(tmp_path: Path) -> None:
    inside = proc(tmp_path / "proc", {100: ("somebody else", "/")}, namespace="pid:[4026532201]")
    reading = NvmlDevices(Library(full()), inside).sample()
    assert reading.samples[0].processes is None
    [gap] = reading.gaps
    assert (gap.counter, gap.reason) == ("processes", "own_pid_namespace")
    assert "hostPID: true" in gap.because


def test_of_a_process_that_has_ended_memory_alone_is_known(machine: Path) -> None:
    gpu = gpu_with(process(9999, GIB))
    [sample] = NvmlDevices(Library(gpu), machine).sample().samples
    assert sample.processes == (ProcessSample(pid=9999, memory_used_bytes=GIB),)
