"""What arrives at a receiver, over the real exporter, as whole tables."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint
from opentelemetry.sdk.resources import Resource

from collectors.devices import (
    Devices,
    DeviceSample,
    FakeDevices,
    Gap,
    NvmlDevices,
    ProcessSample,
    Reading,
)
from collectors.devices.agent import resource, send_until
from tests.collectors.devices.library import GIB, Library, full
from tests.collectors.devices.machine import CONTAINER, POD, kubernetes, proc
from tests.collectors.loopback import running

Table = dict[tuple[str, str, str], list[tuple[dict[str, str | int], float]]]

H100 = {"hw.id": "GPU-1", "hw.type": "gpu", "hw.name": "NVIDIA H100 80GB HBM3"}
LEVEL, COUNTER, GAUGE = "level", "counter", "gauge"


def sent(devices: Devices) -> Table:
    """The table that one reading of them becomes."""
    stop = threading.Event()
    stop.set()
    with running() as loopback:
        exporter = OTLPMetricExporter(f"{loopback.url}/v1/metrics")
        send_until(stop, devices, exporter, Resource({"host.name": "node-1"}), 3600)
        exporter.shutdown()
    return table(loopback.telemetry[0][2])


def table(body: bytes) -> Table:
    return {
        (metric.name, metric.unit, kind(metric)): [
            (attributes(list(point.attributes)), value(point)) for point in points(metric)
        ]
        for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
    }


def kind(metric: Metric) -> str:
    if metric.WhichOneof("data") == "gauge":
        return GAUGE
    assert metric.sum.aggregation_temporality == 2  # cumulative
    assert all(point.start_time_unix_nano for point in metric.sum.data_points)
    return COUNTER if metric.sum.is_monotonic else LEVEL


def points(metric: Metric) -> list[NumberDataPoint]:
    return list(getattr(metric, str(metric.WhichOneof("data"))).data_points)


def attributes(pairs: list[KeyValue]) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in pairs}


def value(point: NumberDataPoint) -> float:
    assert 0 <= point.start_time_unix_nano <= point.time_unix_nano
    return float(getattr(point, str(point.WhichOneof("value"))))


def each(attribute: str, **values: float) -> list[tuple[dict[str, str | int], float]]:
    return [({**H100, attribute: name}, number) for name, number in values.items()]


def test_a_gpu_arrives_in_opentelemetrys_names(tmp_path: Path) -> None:
    machine = proc(tmp_path / "proc", {100: ("vllm", kubernetes()), 200: ("python", "/")})
    vllm = {
        "process.pid": 100,
        "process.executable.name": "vllm",
        "container.id": CONTAINER,
        "k8s.pod.uid": POD,
    }
    python = {"process.pid": 200, "process.executable.name": "python"}
    assert sent(NvmlDevices(Library(full()), machine)) == {
        ("hw.status", "1", LEVEL): each("hw.state", ok=1, failed=0),
        ("hw.gpu.utilization", "1", GAUGE): each("hw.gpu.task", general=0.5),
        ("costwatch.gpu.memory_controller.utilization", "1", GAUGE): [(H100, 0.25)],
        ("hw.gpu.memory.usage", "By", LEVEL): [(H100, 60 * GIB)],
        ("hw.gpu.memory.limit", "By", LEVEL): [(H100, 80 * GIB)],
        ("hw.power", "W", GAUGE): [(H100, 350.5)],
        ("costwatch.gpu.power.limit", "W", GAUGE): [(H100, 700)],
        ("hw.energy", "J", COUNTER): [(H100, 1234.567)],
        ("costwatch.gpu.clock", "Hz", GAUGE): each(
            "costwatch.gpu.clock.domain", sm=1_755_000_000, memory=2_619_000_000
        ),
        ("costwatch.gpu.clock.limit", "Hz", GAUGE): each(
            "costwatch.gpu.clock.domain", sm=1_980_000_000, memory=2_619_000_000
        ),
        ("hw.temperature", "Cel", GAUGE): each("hw.sensor_location", gpu=61, memory=72),
        ("costwatch.gpu.throttled", "1", GAUGE): each(
            "costwatch.gpu.throttle.reason",
            applications_clocks=0,
            power_cap=1,
            hardware_slowdown=0,
            sync_boost=0,
            thermal=0,
            hardware_thermal=0,
            power_brake=0,
            display_clocks=0,
        ),
        ("costwatch.gpu.throttled.time", "s", COUNTER): each(
            "costwatch.gpu.throttle.reason",
            power=0,
            thermal=1.5,
            sync_boost=0,
            board_limit=0,
            low_utilization=0,
            reliability=0,
        ),
        ("hw.errors", "{error}", COUNTER): each(
            "error.type", corrected=3, uncorrected=1, pcie_replay=2
        ),
        ("costwatch.gpu.process.memory.usage", "By", LEVEL): [
            ({**H100, **vllm}, 50 * GIB),
            ({**H100, **python}, GIB),
        ],
        ("costwatch.gpu.process.utilization", "1", GAUGE): [({**H100, **vllm}, 0.48)],
    }


def test_what_is_denied_arrives_as_missing_and_never_as_zero() -> None:
    gap = Gap(
        device_id="GPU-2",
        device_type="gpu",
        counter="energy",
        reason="no_permission",
        because="ask root",
    )
    driver = Gap(
        device_id="", device_type="gpu", counter="device", reason="no_driver", because="none"
    )
    gpu = DeviceSample(device_id="GPU-2", device_type="gpu", memory_total_bytes=80)
    identity = {"hw.id": "GPU-2", "hw.type": "gpu"}
    assert sent(FakeDevices([gpu], [gap, driver])) == {
        ("hw.status", "1", LEVEL): [
            ({**identity, "hw.state": "ok"}, 1),
            ({**identity, "hw.state": "failed"}, 0),
        ],
        ("hw.gpu.memory.limit", "By", LEVEL): [(identity, 80)],
        ("costwatch.device.not_sampled", "1", LEVEL): [
            (
                {
                    **identity,
                    "costwatch.device.counter": "energy",
                    "error.type": "no_permission",
                },
                1,
            ),
            (
                {
                    "hw.type": "gpu",
                    "costwatch.device.counter": "device",
                    "error.type": "no_driver",
                },
                1,
            ),
        ],
    }


def test_a_lost_gpu_arrives_as_failed_and_with_no_values() -> None:
    devices = FakeDevices(
        [
            DeviceSample(
                device_id="GPU-2",
                device_type="gpu",
                power_watts=300.0,
                processes=(ProcessSample(pid=1, memory_used_bytes=1),),
            )
        ]
    )
    devices.lose("GPU-2")
    identity = {"hw.id": "GPU-2", "hw.type": "gpu"}
    assert sent(devices) == {
        ("hw.status", "1", LEVEL): [
            ({**identity, "hw.state": "ok"}, 0),
            ({**identity, "hw.state": "failed"}, 1),
        ]
    }


def test_an_instance_names_its_gpu_and_a_cpu_its_states() -> None:
    instance = DeviceSample(
        device_id="MIG-1", device_type="gpu", parent_id="GPU-1", memory_used_bytes=0
    )
    cpu = DeviceSample(
        device_id="node-1", device_type="cpu", cpu_seconds={"busy": 3.0, "idle": 97.0}
    )
    found = sent(FakeDevices([instance, cpu]))
    part = {"hw.id": "MIG-1", "hw.type": "gpu", "hw.parent": "GPU-1"}
    assert found["hw.gpu.memory.usage", "By", LEVEL] == [(part, 0)]
    cores = {"hw.id": "node-1", "hw.type": "cpu"}
    assert found["system.cpu.time", "s", COUNTER] == [
        ({**cores, "state": "busy"}, 3),
        ({**cores, "state": "idle"}, 97),
    ]


def test_the_machine_is_named_and_who_knows_better_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=gpu-node-7")
    assert resource().attributes["host.name"] == "gpu-node-7"
    assert resource().attributes["service.name"] == "costwatch-devices"


def test_a_reading_is_sent_at_each_interval_and_when_it_stops() -> None:
    stop = threading.Event()

    class Counting:
        """Devices that are read three times, then stopped."""

        readings = 0

        def sample(self) -> Reading:
            self.readings += 1
            if self.readings == 3:
                stop.set()
            cpu = {"busy": float(self.readings), "idle": 0.0}
            return Reading((DeviceSample(device_id="n", device_type="cpu", cpu_seconds=cpu),))

    with running() as loopback:
        exporter = OTLPMetricExporter(f"{loopback.url}/v1/metrics")
        send_until(stop, Counting(), exporter, Resource({}), 0.01)
        exporter.shutdown()
    tables = [table(body) for _, _, body in loopback.telemetry]
    key = ("system.cpu.time", "s", COUNTER)
    assert [found[key][0][1] for found in tables] == [1, 2, 3, 4]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "collectors.run", "devices", *arguments]


def environment(outbox: Path) -> dict[str, str]:
    clean = {name: v for name, v in os.environ.items() if not name.startswith(("OTEL_", "COSTW"))}
    return {**clean, "COSTWATCH_OUTBOX": str(outbox)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "costwatch has no endpoint; pass"),
        (["--interval", "0"], "'0': expected seconds from 1 to 3600, such as 10"),
        (["--interval", "often"], "'often': expected seconds from 1 to 3600, such as 10"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_sampled(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        command(*arguments), env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("start", [["collectors.run", "devices"], ["collectors.devices"]])
def test_the_agent_says_what_it_samples_and_sends_until_it_is_told_to_stop(
    start: list[str], tmp_path: Path
) -> None:
    with running() as loopback:
        target = ["--endpoint", loopback.url, "--key", "cwk_test", "--interval", "3600"]
        with subprocess.Popen(
            [sys.executable, "-m", *start, *target],
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        ) as agent:
            assert agent.stderr is not None
            while "sampling cpu" not in agent.stderr.readline():
                assert agent.poll() is None
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0
    first, *_ = loopback.telemetry
    assert (first[0], first[1]["authorization"]) == ("/v1/metrics", "Bearer cwk_test")
    tables = [table(body) for _, _, body in loopback.telemetry]
    assert len(tables) == 2
    assert all(("system.cpu.time", "s", COUNTER) in found for found in tables)


def test_what_was_sampled_while_the_receiver_was_away_is_sent_when_it_is_back(
    tmp_path: Path,
) -> None:
    with running() as loopback:
        port = int(loopback.url.rpartition(":")[2])
    kept = environment(tmp_path)
    run_for_two_readings(port, kept)
    assert any(tmp_path.rglob("*")), "what could not be sent waits on disk"
    with running(port) as loopback:
        run_for_two_readings(port, kept)
    assert len([path for path, _, _ in loopback.telemetry if path == "/v1/metrics"]) == 4


def run_for_two_readings(port: int, environ: dict[str, str]) -> None:
    """The first one and, told to stop, the last one."""
    target = ["--endpoint", f"http://127.0.0.1:{port}", "--key", "cwk_test", "--interval", "3600"]
    with subprocess.Popen(
        command(*target), env=environ, stderr=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stderr is not None
        while "sampling cpu" not in agent.stderr.readline():
            assert agent.poll() is None
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
