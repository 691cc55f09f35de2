"""A stand-in for NVIDIA's management library, at its outermost edge: pynvml's functions, as pynvml answers them.

Each call is bound to the real function's signature, structures are the real ones, and errors are raised as the real
classes, so that what passes here would be a call that pynvml takes.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pynvml

GIB = 2**30


@dataclass
class Gpu:
    """A GPU, or a MIG instance, and what it answers to each function: a value, or an error that is raised."""

    uuid: str
    answers: dict[str, Any] = field(default_factory=dict)
    name: str = "NVIDIA H100 80GB HBM3"
    instances: Mapping[int, "Gpu"] | None = None  # None: not divided
    failure: type[pynvml.NVMLError] | None = None  # it answers nothing else any more

    def answer(self, function: str, *arguments: object, by: Any) -> None:
        """What it answers to a function with these arguments besides the device."""
        self.answers[repr((function, *arguments))] = by

    def deny(self, error: type[pynvml.NVMLError], *functions: str) -> None:
        self.answers |= dict.fromkeys(functions, error)


class Library:
    """What NvmlDevices is given in place of the module pynvml."""

    NVMLError = pynvml.NVMLError
    NVML_SUCCESS = pynvml.NVML_SUCCESS
    NVML_ERROR_NOT_FOUND = pynvml.NVML_ERROR_NOT_FOUND

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = list(gpus)
        self.failure: type[pynvml.NVMLError] | None = None  # of the whole driver
        self.times_opened = 0
        self._is_open = False

    def nvmlInit(self) -> None:  # noqa: N802  the library's names
        if self.failure:
            raise self.failure()
        self._is_open = True
        self.times_opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._is_open = False

    def __getattr__(self, function: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(pynvml, function))

        def call(*arguments: Any) -> Any:
            signature.bind(*arguments)
            if self.failure:
                raise self.failure()
            if not self._is_open:
                raise pynvml.NVMLError_Uninitialized()
            return self._answer(function, *arguments)

        return call

    def _answer(self, function: str, *arguments: Any) -> Any:
        if function == "nvmlDeviceGetCount":
            return len(self.gpus)
        if function == "nvmlDeviceGetHandleByIndex":
            gpu = self.gpus[arguments[0]]
            if gpu.failure:
                raise gpu.failure()
            return gpu
        if function == "nvmlDeviceGetHandleByUUID":
            return next(gpu for gpu in self.gpus if gpu.uuid == arguments[0])
        gpu = arguments[0]
        if gpu.failure:
            raise gpu.failure()
        answer = self._answer_of(gpu, function, *arguments[1:])
        if isinstance(answer, type) and issubclass(answer, pynvml.NVMLError):
            raise answer()
        return answer

    def _answer_of(self, gpu: Gpu, function: str, *arguments: Any) -> Any:
        for asked in (repr((function, *arguments)), function):
            if asked in gpu.answers:
                answer = gpu.answers[asked]
                return answer(*arguments) if inspect.isfunction(answer) else answer
        match function:
            case "nvmlDeviceGetUUID":
                return gpu.uuid
            case "nvmlDeviceGetName":
                return gpu.name
            case "nvmlDeviceGetMigMode" if gpu.instances is not None:
                return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]
            case "nvmlDeviceGetMaxMigDeviceCount" if gpu.instances is not None:
                return 7
            case "nvmlDeviceGetMigDeviceHandleByIndex" if gpu.instances is not None:
                return gpu.instances.get(arguments[0], pynvml.NVMLError_NotFound)
        return pynvml.NVMLError_NotSupported


def memory(used: int, total: int) -> Any:
    return pynvml.c_nvmlMemory_v2_t(total=total, free=total - used, used=used)


def process(pid: int, used: int | None) -> Any:
    return pynvml.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": used})


def share(pid: int, at_us: int, percent: int) -> Any:
    return pynvml.c_nvmlProcessUtilizationSample_t(pid=pid, timeStamp=at_us, smUtil=percent)


def violation(ns: int) -> Any:
    return pynvml.c_nvmlViolationTime_t(referenceTime=0, violationTime=ns)


def memory_temperature(celsius: int, error: int = pynvml.NVML_SUCCESS) -> Any:
    value = pynvml.c_nvmlFieldValue_t(nvmlReturn=error)
    value.value.uiVal = celsius
    return [value]


def full(uuid: str = "GPU-1", **others: Any) -> Gpu:
    """A GPU that counts everything."""
    power_cap = pynvml.nvmlClocksEventReasonSwPowerCap
    gpu = Gpu(uuid, **others)
    gpu.answers |= {
        "nvmlDeviceGetUtilizationRates": pynvml.c_nvmlUtilization_t(gpu=50, memory=25),
        "nvmlDeviceGetMemoryInfo": memory(60 * GIB, 80 * GIB),
        "nvmlDeviceGetPowerUsage": 350_500,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetTotalEnergyConsumption": 1_234_567,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetFieldValues": memory_temperature(72),
        "nvmlDeviceGetCurrentClocksEventReasons": power_cap | pynvml.nvmlClocksEventReasonGpuIdle,
        "nvmlDeviceGetViolationStatus": violation(0),
        "nvmlDeviceGetPcieReplayCounter": 2,
        "nvmlDeviceGetComputeRunningProcesses_v3": [process(100, 50 * GIB), process(200, GIB)],
        "nvmlDeviceGetGraphicsRunningProcesses_v3": [],
        "nvmlDeviceGetMPSComputeRunningProcesses_v3": [],
        "nvmlDeviceGetProcessUtilization": [share(100, 1_000, 48)],
    }
    sm, memory_clock = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
    gpu.answer("nvmlDeviceGetClockInfo", sm, by=1755)
    gpu.answer("nvmlDeviceGetClockInfo", memory_clock, by=2619)
    gpu.answer("nvmlDeviceGetMaxClockInfo", sm, by=1980)
    gpu.answer("nvmlDeviceGetMaxClockInfo", memory_clock, by=2619)
    thermal = pynvml.NVML_PERF_POLICY_THERMAL
    gpu.answer("nvmlDeviceGetViolationStatus", thermal, by=violation(1_500_000_000))
    corrected = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
    uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    gpu.answer("nvmlDeviceGetTotalEccErrors", corrected, pynvml.NVML_AGGREGATE_ECC, by=3)
    gpu.answer("nvmlDeviceGetTotalEccErrors", uncorrected, pynvml.NVML_AGGREGATE_ECC, by=1)
    return gpu
