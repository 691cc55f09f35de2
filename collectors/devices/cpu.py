"""The machine's CPU: busy and idle time of all cores, and its packages' energy."""

import socket
from pathlib import Path

import psutil

from collectors.devices.rapl import POWERCAP, CpuPackages
from collectors.devices.samples import DeviceSample, Reading, merged


class CpuDevices:
    """All cores as one device, and every package that counts its energy as a part of it."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._host = socket.gethostname()
        self._packages = CpuPackages(self._host, powercap)

    def sample(self) -> Reading:
        return merged([Reading((self._cores(),)), self._packages.sample()])

    def _cores(self) -> DeviceSample:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # A guest's time is in user's already.
        busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return DeviceSample(
            device_id=self._host, device_type="cpu", cpu_seconds={"busy": busy, "idle": idle}
        )
