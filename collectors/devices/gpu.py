"""One GPU's counters, from NVML. MIG instances are in mig.py, processes in processes.py."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pynvml

from collectors.devices.inquiry import Inquiry, Nvml, memory_of
from collectors.devices.samples import DeviceSample

_HZ_PER_MHZ = 1_000_000
_CLOCKS = {"sm": pynvml.NVML_CLOCK_SM, "memory": pynvml.NVML_CLOCK_MEM}
# An idle GPU lowers its clocks, too; nothing is held back by that.
THROTTLE_REASONS = {
    "applications_clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware_slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hardware_thermal": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power_brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "display_clocks": pynvml.nvmlClocksEventReasonDisplayClockSetting,
}
_VIOLATIONS = {
    "power": pynvml.NVML_PERF_POLICY_POWER,
    "thermal": pynvml.NVML_PERF_POLICY_THERMAL,
    "sync_boost": pynvml.NVML_PERF_POLICY_SYNC_BOOST,
    "board_limit": pynvml.NVML_PERF_POLICY_BOARD_LIMIT,
    "low_utilization": pynvml.NVML_PERF_POLICY_LOW_UTILIZATION,
    "reliability": pynvml.NVML_PERF_POLICY_RELIABILITY,
}


def sample_gpu(nvml: Nvml, handle: Any, identity: DeviceSample, inquiry: Inquiry) -> DeviceSample:
    """Everything but its processes. Raises DeviceLost."""
    rates = inquiry.ask("utilization", nvml.nvmlDeviceGetUtilizationRates, handle)
    memory = inquiry.ask("memory", memory_of, nvml, handle)
    power_mw = inquiry.ask("power", nvml.nvmlDeviceGetPowerUsage, handle)
    power_limit_mw = inquiry.ask("power_limit", nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    energy_mj = inquiry.ask("energy", nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    return DeviceSample(
        device_id=identity.device_id,
        device_type=identity.device_type,
        name=identity.name,
        utilization=None if rates is None else rates.gpu / 100,
        memory_controller_utilization=None if rates is None else rates.memory / 100,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        power_watts=None if power_mw is None else power_mw / 1000,
        power_limit_watts=None if power_limit_mw is None else power_limit_mw / 1000,
        energy_joules=None if energy_mj is None else energy_mj / 1000,
        clocks_hz=_clocks_hz(inquiry, "clocks", nvml.nvmlDeviceGetClockInfo, handle),
        clock_limits_hz=_clocks_hz(inquiry, "clock_limits", nvml.nvmlDeviceGetMaxClockInfo, handle),
        temperatures_celsius=_temperatures(nvml, handle, inquiry),
        throttle_reasons=_throttle_reasons(nvml, handle, inquiry),
        throttled_seconds=_throttled_seconds(nvml, handle, inquiry),
        errors=_errors(nvml, handle, inquiry),
    )


def _clocks_hz(
    inquiry: Inquiry, counter: str, read: Callable[[Any, int], int], handle: Any
) -> dict[str, int]:
    reads = {domain: partial(read, handle, clock) for domain, clock in _CLOCKS.items()}
    return {name: mhz * _HZ_PER_MHZ for name, mhz in inquiry.ask_each(counter, reads).items()}


def _temperatures(nvml: Nvml, handle: Any, inquiry: Inquiry) -> dict[str, float]:
    reads = {
        "gpu": partial(nvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        "memory": partial(_memory_temperature, nvml, handle),
    }
    return inquiry.ask_each("temperature", reads)


def _memory_temperature(nvml: Nvml, handle: Any) -> int:
    [found] = nvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_MEMORY_TEMP])
    if found.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(found.nvmlReturn)
    return int(found.value.uiVal)


def _throttle_reasons(nvml: Nvml, handle: Any, inquiry: Inquiry) -> frozenset[str] | None:
    mask = inquiry.ask("throttling", _throttle_mask, nvml, handle)
    if mask is None:
        return None
    return frozenset(name for name, bit in THROTTLE_REASONS.items() if mask & bit)


def _throttle_mask(nvml: Nvml, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:  # its name in drivers before 535
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _throttled_seconds(nvml: Nvml, handle: Any, inquiry: Inquiry) -> dict[str, float]:
    reads = {
        cause: partial(nvml.nvmlDeviceGetViolationStatus, handle, policy)
        for cause, policy in _VIOLATIONS.items()
    }
    found = inquiry.ask_each("throttled_time", reads)
    return {cause: status.violationTime / 1e9 for cause, status in found.items()}


def _errors(nvml: Nvml, handle: Any, inquiry: Inquiry) -> dict[str, int]:
    """Over the device's life: a count since the driver's load would fall back to zero."""
    ecc = partial(nvml.nvmlDeviceGetTotalEccErrors, handle)
    reads = {
        "corrected": partial(
            ecc, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_AGGREGATE_ECC
        ),
        "uncorrected": partial(
            ecc, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC
        ),
        "pcie_replay": partial(nvml.nvmlDeviceGetPcieReplayCounter, handle),
    }
    return inquiry.ask_each("errors", reads)
