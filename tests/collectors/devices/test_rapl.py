"""The energy of CPU packages, in folders as Linux lays them out."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.devices import CpuDevices, DeviceSample
from collectors.devices.rapl import CpuPackages
from tests.collectors.devices.machine import powercap

RANGE_UJ = 262_143_328_850


def joules(packages: CpuPackages) -> dict[str, float | None]:
    return {sample.device_id: sample.energy_joules for sample in packages.sample().samples}


def test_every_package_is_a_device_and_no_part_of_one(tmp_path: Path) -> None:
    folder = powercap(
        tmp_path / "powercap",
        rapl_0=("package-0", 5_500_000),
        rapl_0_0=("core", 1_000_000),
        rapl_0_1=("dram", 1_000_000),
        rapl_1=("package-1", 7_000_000),
        rapl_2=("psys", 20_000_000),
    )
    reading = CpuPackages("node-1", folder).sample()
    assert reading.gaps == ()
    assert reading.samples == (
        DeviceSample(
            device_id="node-1/package-0", device_type="cpu", parent_id="node-1", energy_joules=5.5
        ),
        DeviceSample(
            device_id="node-1/package-1", device_type="cpu", parent_id="node-1", energy_joules=7.0
        ),
    )


@given(
    start_uj=st.integers(0, RANGE_UJ - 1),
    used_uj=st.lists(st.integers(0, RANGE_UJ - 1), max_size=20),
)
def test_a_counter_that_goes_around_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, start_uj: int, used_uj: list[int]
) -> None:
    folder = powercap(tmp_path_factory.mktemp("powercap"), rapl_0=("package-0", start_uj))
    packages = CpuPackages("node-1", folder)
    assert joules(packages) == {"node-1/package-0": start_uj / 1e6}
    total_uj = start_uj
    for more_uj in used_uj:
        total_uj += more_uj
        (folder / "intel-rapl:0/energy_uj").write_text(f"{total_uj % RANGE_UJ}\n")
        assert joules(packages) == {"node-1/package-0": total_uj / 1e6}


def test_where_energy_is_denied_the_gap_says_who_may_read_it(tmp_path: Path) -> None:
    folder = powercap(tmp_path / "powercap", rapl_0=("package-0", 1))
    (folder / "intel-rapl:0/energy_uj").unlink()
    (folder / "intel-rapl:0/energy_uj").mkdir()  # what even root cannot read
    reading = CpuPackages("node-1", folder).sample()
    assert reading.samples == ()
    [gap] = reading.gaps
    assert (gap.device_id, gap.counter, gap.reason) == ("node-1/package-0", "energy", "unreadable")
    assert os.strerror(errno.EISDIR) in gap.because
    assert "root" in gap.because


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    """Where we are root, nobody; root reads everything."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_where_the_user_may_not_read_the_reason_is_permission() -> None:
    with TemporaryDirectory() as folder:  # pytest's own is closed to others
        Path(folder).chmod(0o755)
        zones = powercap(Path(folder), rapl_0=("package-0", 1))
        (zones / "intel-rapl:0/energy_uj").chmod(0)
        with an_ordinary_user():
            [gap] = CpuPackages("node-1", zones).sample().gaps
    assert (gap.device_id, gap.reason) == ("node-1/package-0", "no_permission")


def test_a_machine_without_such_counters_says_so_once(tmp_path: Path) -> None:
    reading = CpuDevices(tmp_path / "powercap").sample()
    [cores] = reading.samples
    assert cores.energy_joules is None
    [gap] = reading.gaps
    assert (gap.device_id, gap.counter, gap.reason) == (
        socket.gethostname(),
        "energy",
        "not_supported",
    )


def test_a_machines_cores_and_packages_are_read_together(tmp_path: Path) -> None:
    folder = powercap(tmp_path / "powercap", rapl_0=("package-0", 5_500_000))
    cores, package = CpuDevices(folder).sample().samples
    assert cores.device_id == package.parent_id == socket.gethostname()
    assert set(cores.cpu_seconds) == {"busy", "idle"}
    assert package.energy_joules == 5.5
