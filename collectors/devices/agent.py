"""The agent of a machine: reads its devices at an interval and sends what they do."""

import argparse
import logging
import signal
import socket
import threading
import time
from collections.abc import Sequence

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from collectors import semconv
from collectors.devices.announce import Announced
from collectors.devices.busy import BusyTimes
from collectors.devices.cpu import CpuDevices
from collectors.devices.metrics import encode
from collectors.devices.nvml import NvmlDevices
from collectors.devices.samples import AllDevices, Devices
from collectors.sdk import ConfigurationError, find_target, metric_exporter, sender_to


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample until a signal says stop, then once more."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        target = find_target(options.endpoint, options.key)
    except ConfigurationError as error:
        raise SystemExit(str(error)) from error
    stop = _told_to_stop()
    devices = Announced(AllDevices(NvmlDevices(), CpuDevices()))
    exporter = metric_exporter(target, sender_to(target))
    send_until(stop, devices, exporter, resource(), options.interval)
    exporter.shutdown()


def send_until(
    stop: threading.Event,
    devices: Devices,
    exporter: MetricExporter,
    resource: Resource,
    interval_seconds: float,
) -> None:
    """Send a reading now, at every interval until `stop` is set, and one then: a counter's last value counts."""
    started_unix_ns = time.time_ns()
    busy_times = BusyTimes(interval_seconds)

    def send() -> None:
        reading, now_unix_ns = devices.sample(), time.time_ns()
        busy = busy_times.add(reading.samples, now_unix_ns)
        exporter.export(encode(reading, resource, started_unix_ns, now_unix_ns, busy))

    due_seconds = time.monotonic()
    send()
    while True:
        # From one due time to the next; what an outage of the receiver has delayed is left out.
        due_seconds = max(due_seconds + interval_seconds, time.monotonic())
        is_last = stop.wait(due_seconds - time.monotonic())
        send()
        if is_last:
            return


def resource() -> Resource:
    """Which machine this is. OTEL_RESOURCE_ATTRIBUTES knows better: in a container, the node's name."""
    ours = {semconv.SERVICE_NAME: "costwatch-devices", semconv.HOST_NAME: socket.gethostname()}
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="costwatch-collect devices",
        description="Send what this machine's GPUs, their processes and its CPU do.",
    )
    parser.add_argument("--endpoint", help="where to send; default: COSTWATCH_ENDPOINT")
    parser.add_argument("--key", help="the ingest key; default: COSTWATCH_KEY")
    parser.add_argument(
        "--interval", type=_seconds, default=10.0, help="seconds between samples; default: 10"
    )
    return parser.parse_args(arguments)


def _seconds(said: str) -> float:
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:  # drivers count anew about once a second
        raise argparse.ArgumentTypeError(f"{said!r}: expected seconds from 1 to 3600, such as 10")
    return seconds


def _told_to_stop() -> threading.Event:
    """Set by the signal that a terminal or a supervisor sends."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
