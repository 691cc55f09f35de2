"""What the machine's devices do: GPUs, MIG instances and the processes on them, and the CPU.

`costwatch-collect devices` sends it as metrics, in OpenTelemetry's hardware conventions. What a driver or a container
denies is left out and named: no number is not the number zero.
"""

from collectors.devices.agent import main
from collectors.devices.cpu import CpuDevices
from collectors.devices.fake import FakeDevices
from collectors.devices.nvml import NvmlDevices
from collectors.devices.samples import (
    AllDevices,
    Devices,
    DeviceSample,
    Gap,
    ProcessSample,
    Reading,
)

__all__ = [
    "AllDevices",
    "CpuDevices",
    "DeviceSample",
    "Devices",
    "FakeDevices",
    "Gap",
    "NvmlDevices",
    "ProcessSample",
    "Reading",
    "main",
]
