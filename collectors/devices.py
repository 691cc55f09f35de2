"""What the machine's devices do: utilization, memory, power, energy per GPU; busy and idle time of the CPU.

`python -m collectors.devices --endpoint URL --key KEY` sends it as metrics, in OpenTelemetry's hardware conventions.
What a driver or a container denies is left out: no number is not the number zero.
"""

import argparse
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import pynvml
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from collectors import semconv
from collectors.sdk import ConfigurationError, find_target

logger = logging.getLogger(__name__)

_ONE_SAMPLE_SECONDS = 0.5  # instruments that are read together speak of the same moment


class DevicesUnavailable(RuntimeError):
    """There is no such device here, or no driver for it; the message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """One device at one moment; None: not counted here."""

    device_id: str
    device_type: str  # "gpu", "cpu"
    name: str = ""
    utilization: float | None = None  # 0 to 1
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None  # cumulative, since the driver was loaded
    busy_seconds: float | None = None  # cumulative, over all cores, since the machine's start
    idle_seconds: float | None = None


class Devices(Protocol):
    """Devices of one kind."""

    def sample(self) -> Sequence[DeviceSample]:
        """Every device as it is now. One that was lost since is absent."""


class NvmlDevices:
    """NVIDIA's GPUs, through the driver's management library."""

    def __init__(self) -> None:
        """Raises DevicesUnavailable where there is no driver or no GPU that it lets us see."""
        try:
            pynvml.nvmlInit()
            self._handles = [
                pynvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
        except pynvml.NVMLError as error:
            raise DevicesUnavailable(
                f"no GPU can be sampled: {error}; it takes NVIDIA's driver, and in a container"
                " NVIDIA_DRIVER_CAPABILITIES=utility"
            ) from error
        if not self._handles:
            raise DevicesUnavailable("no GPU can be sampled: the driver lists none")

    def sample(self) -> Sequence[DeviceSample]:
        samples = (_nvml_sample(handle) for handle in self._handles)
        return [sample for sample in samples if sample is not None]


def _nvml_sample(handle: Any) -> DeviceSample | None:
    device_id = _granted(pynvml.nvmlDeviceGetUUID, handle)
    if device_id is None:
        return None  # lost: fallen off the bus, or taken from the container
    memory = _granted(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _granted(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _granted(pynvml.nvmlDeviceGetPowerUsage, handle)
    energy_mj = _granted(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    return DeviceSample(
        device_id=device_id,
        device_type="gpu",
        name=_granted(pynvml.nvmlDeviceGetName, handle) or "",
        utilization=None if rates is None else rates.gpu / 100,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        power_watts=None if power_mw is None else power_mw / 1000,
        energy_joules=None if energy_mj is None else energy_mj / 1000,
    )


def _granted(read: Callable[[Any], Any], handle: Any) -> Any:
    """A counter; None where this device has it not or the container may not read it."""
    try:
        return read(handle)
    except pynvml.NVMLError:
        return None


class CpuDevices:
    """The machine's CPU, all cores as one device."""

    def sample(self) -> Sequence[DeviceSample]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # A guest's time is in user's already.
        busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return [
            DeviceSample(
                device_id=socket.gethostname(),
                device_type="cpu",
                busy_seconds=busy,
                idle_seconds=idle,
            )
        ]


class FakeDevices:
    """Devices that are what they are told to be, for whoever has none."""

    def __init__(self, samples: Iterable[DeviceSample] = ()) -> None:
        self.samples = list(samples)

    def sample(self) -> Sequence[DeviceSample]:
        return list(self.samples)


class AllDevices:
    """Devices of several kinds as one."""

    def __init__(self, *kinds: Devices) -> None:
        self._kinds = kinds

    def sample(self) -> Sequence[DeviceSample]:
        return [sample for kind in self._kinds for sample in kind.sample()]


def observe(meter: Meter, devices: Devices) -> None:
    """Register instruments that read the devices whenever metrics are collected. Once a meter: names are its own."""
    reads = _Latest(devices).reads
    gauge, counter = meter.create_observable_gauge, meter.create_observable_counter
    gauge(semconv.HW_GPU_UTILIZATION, [reads("utilization")], unit="1")
    gauge(semconv.HW_GPU_MEMORY_USAGE, [reads("memory_used_bytes")], unit="By")
    gauge(semconv.HW_GPU_MEMORY_LIMIT, [reads("memory_total_bytes")], unit="By")
    gauge(semconv.HW_POWER, [reads("power_watts")], unit="W")
    counter(semconv.HW_ENERGY, [reads("energy_joules")], unit="J")
    busy, idle = reads("busy_seconds", state="busy"), reads("idle_seconds", state="idle")
    counter(semconv.HW_CPU_BUSY_TIME, [busy, idle], unit="s")


class _Latest:
    """The newest sample, taken once for all instruments of one collection."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._samples: Sequence[DeviceSample] = ()
        self._taken_seconds = float("-inf")

    def reads(self, field: str, **attributes: str) -> Callable[..., Iterable[Observation]]:
        """A callback for an instrument: this field of every device that counts it."""

        def observations(_: CallbackOptions) -> Iterable[Observation]:
            for sample in self._now():
                value = getattr(sample, field)
                if value is not None:
                    yield Observation(value, {**_identity(sample), **attributes})

        return observations

    def _now(self) -> Sequence[DeviceSample]:
        if time.monotonic() - self._taken_seconds > _ONE_SAMPLE_SECONDS:
            self._samples = self._devices.sample()
            self._taken_seconds = time.monotonic()
        return self._samples


def _identity(sample: DeviceSample) -> dict[str, str]:
    identity = {semconv.HW_ID: sample.device_id, semconv.HW_TYPE: sample.device_type}
    return {**identity, semconv.HW_NAME: sample.name} if sample.name else identity


def available_devices() -> Devices:
    """What can be sampled here: GPUs where there are any, and the CPU."""
    try:
        return AllDevices(NvmlDevices(), CpuDevices())
    except DevicesUnavailable as error:
        logger.warning("%s; sampling the CPU alone", error)
        return CpuDevices()


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample until a signal says stop, then send what is left."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        target = find_target(options.endpoint, options.key)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from error
    exporter = OTLPMetricExporter(
        target.metrics_url, headers=dict(target.headers) or None, compression=Compression.Gzip
    )
    reader = PeriodicExportingMetricReader(exporter, options.interval * 1000)
    provider = MeterProvider([reader], Resource.create({semconv.SERVICE_NAME: "costwatch-devices"}))
    stop = _told_to_stop()
    devices = available_devices()
    observe(provider.get_meter(__name__), devices)
    for sample in devices.sample():
        logger.info("sampling %s %s %s", sample.device_type, sample.device_id, sample.name)
    stop.wait()
    provider.shutdown()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m collectors.devices", description="Send what this machine's devices do."
    )
    parser.add_argument("--endpoint", help="where to send; default: COSTWATCH_ENDPOINT")
    parser.add_argument("--key", help="the ingest key; default: COSTWATCH_KEY")
    parser.add_argument("--interval", type=float, default=10, help="seconds between samples")
    return parser.parse_args(arguments)


def _told_to_stop() -> threading.Event:
    """Set by the signal that a terminal or a supervisor sends."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    main()
