"""Asking NVIDIA's management library (NVML) about one device, and keeping what it refuses as gaps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from collectors.devices.samples import Gap

T = TypeVar("T")
Nvml = Any  # the module pynvml, which has no types, or an object with the same functions

LOST = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
_NO_DRIVER = "it takes NVIDIA's driver, and in a container NVIDIA_DRIVER_CAPABILITIES=utility"
_REASONS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: ("not_supported", "this device does not count it"),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "no_permission",
        "the driver denies it to this user or container; run the agent as root",
    ),
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: ("old_driver", "this driver is too old to say it"),
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: ("no_driver", f"no libnvidia-ml.so.1; {_NO_DRIVER}"),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: ("no_driver", f"not loaded; {_NO_DRIVER}"),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "driver_replaced",
        "the driver was updated since its library was loaded; restart this agent",
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: ("lost", "it has fallen off the bus; see the kernel's log"),
    pynvml.NVML_ERROR_RESET_REQUIRED: ("lost", "it must be reset: nvidia-smi --gpu-reset"),
}


class DeviceLost(Exception):
    """The device does not answer any more."""


class Inquiry:
    """What is asked about one device."""

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self._gaps: list[Gap] = []

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """What was refused so far."""
        return tuple(self._gaps)

    def ask(self, counter: str, read: Callable[..., T], *arguments: Any) -> T | None:
        """The answer; None, and a gap, where it is refused. Raises DeviceLost."""
        try:
            return read(*arguments)
        except LOST as error:
            raise DeviceLost from error
        except pynvml.NVMLError as error:
            self.leave_out(gap_of(error, self.device_id, counter))
            return None

    def ask_if_it_exists(
        self, counter: str, otherwise: T, read: Callable[..., T], *arguments: Any
    ) -> T:
        """The answer; `otherwise` where device or driver are from before it, or it is refused. Raises DeviceLost."""

        def read_it() -> T:
            try:
                return read(*arguments)
            except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
                return otherwise

        answer = self.ask(counter, read_it)
        return otherwise if answer is None else answer

    def ask_each(self, counter: str, reads: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """The answers that are given, by name. One gap where none is, else one for each that is refused."""
        parts = Inquiry(self.device_id)
        asked = {name: parts.ask(f"{counter}.{name}", read) for name, read in reads.items()}
        answers = {name: answer for name, answer in asked.items() if answer is not None}
        refused = (
            parts.gaps if answers else [replace(gap, counter=counter) for gap in parts.gaps[:1]]
        )
        self._gaps.extend(refused)
        return answers

    def leave_out(self, gap: Gap) -> None:
        self._gaps.append(gap)


def memory_of(nvml: Nvml, handle: Any) -> Any:
    """What is used and how much there is, in bytes, of a GPU or an instance, without what the driver keeps for itself.

    Raises NVMLError.
    """
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 510, which count that as used
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def gap_of(error: pynvml.NVMLError, device_id: str, counter: str) -> Gap:
    """What an error of NVML leaves out."""
    reason, because = _REASONS.get(error.value, (f"nvml_{error.value}", f"NVML says: {error}"))
    return Gap(
        device_id=device_id, device_type="gpu", counter=counter, reason=reason, because=because
    )
