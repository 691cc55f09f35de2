"""What devices do, as metrics: absent where it is denied, never zero."""

import os
import signal
import subprocess
import sys

import pynvml
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from collectors.devices import (
    AllDevices,
    CpuDevices,
    DeviceSample,
    DevicesUnavailable,
    FakeDevices,
    NvmlDevices,
    observe,
)
from tests.collectors.loopback import running

FULL = DeviceSample(
    device_id="GPU-1",
    device_type="gpu",
    name="NVIDIA H100",
    utilization=0.5,
    memory_used_bytes=10,
    memory_total_bytes=80,
    power_watts=350.0,
    energy_joules=1234.5,
)
DENIED = DeviceSample(device_id="GPU-2", device_type="gpu", memory_total_bytes=80)
CPU = DeviceSample(device_id="host", device_type="cpu", busy_seconds=3.0, idle_seconds=97.0)


def collected(*samples: DeviceSample) -> dict[str, list[tuple[dict[str, object], float]]]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    observe(provider.get_meter("test"), FakeDevices(samples))
    found = reader.get_metrics_data()
    provider.shutdown()
    metrics = found.resource_metrics[0].scope_metrics[0].metrics if found else []
    return {
        metric.name: [(dict(p.attributes or {}), p.value) for p in metric.data.data_points]  # type: ignore[union-attr]
        for metric in metrics
    }


def test_a_gpu_is_reported_in_opentelemetrys_names() -> None:
    gpu = {"hw.id": "GPU-1", "hw.type": "gpu", "hw.name": "NVIDIA H100"}
    assert collected(FULL) == {
        "hw.gpu.utilization": [(gpu, 0.5)],
        "hw.gpu.memory.usage": [(gpu, 10)],
        "hw.gpu.memory.limit": [(gpu, 80)],
        "hw.power": [(gpu, 350.0)],
        "hw.energy": [(gpu, 1234.5)],
    }


def test_what_is_denied_is_absent_and_not_zero(caplog: pytest.LogCaptureFixture) -> None:
    assert collected(DENIED) == {
        "hw.gpu.memory.limit": [({"hw.id": "GPU-2", "hw.type": "gpu"}, 80)]
    }
    assert caplog.text == ""


def test_a_cpus_busy_and_idle_time_are_two_states_of_one_metric() -> None:
    cpu = {"hw.id": "host", "hw.type": "cpu"}
    assert collected(CPU) == {
        "system.cpu.time": [({**cpu, "state": "busy"}, 3.0), ({**cpu, "state": "idle"}, 97.0)]
    }


def test_devices_of_several_kinds_are_sampled_together() -> None:
    both = AllDevices(FakeDevices([FULL]), FakeDevices([CPU]))
    assert both.sample() == [FULL, CPU]


def test_the_cpus_counters_only_grow() -> None:
    [first], [second] = CpuDevices().sample(), CpuDevices().sample()
    assert first.device_id == second.device_id
    for earlier, later in (
        (first.busy_seconds, second.busy_seconds),
        (first.idle_seconds, second.idle_seconds),
    ):
        assert earlier is not None
        assert later is not None
        assert 0 <= earlier <= later + 0.1  # Linux takes some waiting back
    assert first.energy_joules is None


def has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return bool(pynvml.nvmlDeviceGetCount())


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_driver_the_error_says_what_is_missing() -> None:
    with pytest.raises(DevicesUnavailable, match=r"no GPU can be sampled: .*NVIDIA's driver"):
        NvmlDevices()


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="no GPU here")
def test_a_real_gpu_counts_what_it_grants() -> None:
    for sample in NvmlDevices().sample():
        assert sample.device_id.startswith("GPU-")
        assert sample.memory_total_bytes is None or sample.memory_total_bytes > 2**30
        assert sample.utilization is None or 0 <= sample.utilization <= 1


def test_the_sampler_sends_until_it_is_told_to_stop() -> None:
    kept = {name: v for name, v in os.environ.items() if not name.startswith(("OTEL_", "COSTW"))}
    command = [sys.executable, "-m", "collectors.devices", "--interval", "3600"]
    refused = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("costwatch has no endpoint; pass")
    with running() as loopback:
        target = ["--endpoint", loopback.url, "--key", "cw_test"]
        with subprocess.Popen(
            [*command, *target], env=kept, stderr=subprocess.PIPE, text=True
        ) as sampler:
            assert sampler.stderr is not None
            while "sampling cpu" not in sampler.stderr.readline():
                assert sampler.poll() is None
            sampler.send_signal(signal.SIGTERM)
            assert sampler.wait(30) == 0
    [(path, headers, body)] = loopback.telemetry
    assert (path, headers["authorization"]) == ("/v1/metrics", "Bearer cw_test")
    [resource_metrics] = ExportMetricsServiceRequest.FromString(body).resource_metrics
    names = {metric.name for metric in resource_metrics.scope_metrics[0].metrics}
    assert "system.cpu.time" in names
