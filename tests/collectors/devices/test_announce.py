"""What the agent says of its devices: everything at first, then every change once."""

import logging

import pytest

from collectors.devices import DeviceSample, FakeDevices, Gap, Reading
from collectors.devices.announce import Announced

GPU = DeviceSample(
    device_id="GPU-1", device_type="gpu", name="NVIDIA H100", utilization=0.5, power_watts=350.0
)
INSTANCE = DeviceSample(
    device_id="MIG-1", device_type="gpu", name="1g.10gb", parent_id="GPU-1", memory_used_bytes=1
)
CPU = DeviceSample(device_id="node-1", device_type="cpu", cpu_seconds={"busy": 1.0, "idle": 2.0})


def denied(counter: str) -> Gap:
    return Gap(
        device_id="GPU-1",
        device_type="gpu",
        counter=counter,
        reason="no_permission",
        because="ask root",
    )


NO_DRIVER = Gap(
    device_id="", device_type="gpu", counter="device", reason="no_driver", because="install one"
)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="collectors.devices")
    return caplog


def said(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in log.records]
    log.clear()
    return found


def test_at_first_it_says_what_is_sampled_and_what_not_and_why(
    log: pytest.LogCaptureFixture,
) -> None:
    devices = FakeDevices([GPU, INSTANCE, CPU], [denied("energy"), denied("clocks"), NO_DRIVER])
    announced = Announced(devices)
    assert announced.sample() == devices.sample()
    assert said(log) == [
        ("INFO", "sampling gpu GPU-1 (NVIDIA H100): utilization, power"),
        ("INFO", "sampling gpu MIG-1 (1g.10gb) of GPU-1: memory"),
        ("INFO", "sampling cpu node-1: cpu_time"),
        ("WARNING", "not sampling GPU-1, its energy, clocks: ask root (no_permission)"),
        ("WARNING", "not sampling any gpu: install one (no_driver)"),
    ]


def test_what_stays_as_it_is_is_not_said_again(log: pytest.LogCaptureFixture) -> None:
    devices = FakeDevices([GPU], [denied("energy")])
    announced = Announced(devices)
    announced.sample()
    said(log)
    devices.put(
        DeviceSample(device_id="GPU-1", device_type="gpu", name="NVIDIA H100", utilization=0.9),
        denied("energy"),
    )
    announced.sample()
    assert said(log) == []


def test_a_loss_is_said_once_and_the_return_too(log: pytest.LogCaptureFixture) -> None:
    devices = FakeDevices([GPU], [denied("energy")])
    announced = Announced(devices)
    announced.sample()
    said(log)
    devices.lose("GPU-1")
    announced.sample()
    announced.sample()
    assert said(log) == [
        (
            "ERROR",
            "lost gpu GPU-1 (NVIDIA H100): it has status failed and no values until it answers",
        )
    ]
    devices.find("GPU-1")
    announced.sample()
    assert said(log) == [
        ("INFO", "sampling gpu GPU-1 (NVIDIA H100) again: utilization, power"),
        ("WARNING", "not sampling GPU-1, its energy: ask root (no_permission)"),
    ]


def test_a_counter_that_is_denied_later_and_granted_again_is_said(
    log: pytest.LogCaptureFixture,
) -> None:
    devices = FakeDevices([GPU])
    announced = Announced(devices)
    announced.sample()
    said(log)
    devices.put(GPU, denied("energy"))
    announced.sample()
    assert said(log) == [("WARNING", "not sampling GPU-1, its energy: ask root (no_permission)")]
    devices.put(GPU)
    announced.sample()
    assert said(log) == [("INFO", "now sampling GPU-1, its energy")]


def test_an_instance_that_was_taken_apart_is_no_loss(log: pytest.LogCaptureFixture) -> None:
    class Divided:
        parts: tuple[DeviceSample, ...] = (GPU, INSTANCE)

        def sample(self) -> Reading:
            return Reading(self.parts)

    divided = Divided()
    announced = Announced(divided)
    announced.sample()
    said(log)
    divided.parts = (GPU,)
    announced.sample()
    assert said(log) == [("INFO", "gpu MIG-1 (1g.10gb) of GPU-1 is no more")]
