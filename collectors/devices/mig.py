"""MIG instances: parts of one GPU, each a device with memory and processes of its own.

NVML's counters of utilization, power and energy are the whole GPU's: an instance has none.
"""

from typing import Any

import pynvml

from collectors.devices.inquiry import LOST, DeviceLost, Inquiry, Nvml, gap_of, memory_of
from collectors.devices.processes import Processes
from collectors.devices.samples import WHOLE_DEVICE, DeviceSample, Reading

_UNDIVIDED = (pynvml.NVML_DEVICE_MIG_DISABLE, pynvml.NVML_DEVICE_MIG_DISABLE)


def places(nvml: Nvml, handle: Any, inquiry: Inquiry) -> int | None:
    """How many instances this GPU can have; None where its work does not run in instances. Raises DeviceLost."""
    mode = inquiry.ask_if_it_exists("mig", _UNDIVIDED, nvml.nvmlDeviceGetMigMode, handle)
    if mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    return inquiry.ask("mig", nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0


def sample_instance(
    nvml: Nvml, handle: Any, place: int, gpu: DeviceSample, processes: Processes
) -> Reading:
    """The instance in one of its GPU's places; nothing where none was made. Raises DeviceLost."""
    try:
        instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        device_id, name = nvml.nvmlDeviceGetUUID(instance), nvml.nvmlDeviceGetName(instance)
    except pynvml.NVMLError_NotFound:
        return Reading()
    except LOST as error:
        raise DeviceLost from error
    except pynvml.NVMLError as error:
        return Reading((), (gap_of(error, f"{gpu.device_id}/mig-{place}", WHOLE_DEVICE),))
    inquiry = Inquiry(device_id)
    memory = inquiry.ask("memory", memory_of, nvml, instance)
    sample = DeviceSample(
        device_id=device_id,
        device_type="gpu",
        name=name,
        parent_id=gpu.device_id,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        processes=processes.on_instance(instance, inquiry),
    )
    return Reading((sample,), inquiry.gaps)
