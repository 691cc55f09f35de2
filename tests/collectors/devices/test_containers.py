"""Containers and pods in /proc/PID/cgroup, as the runtimes write them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.devices.containers import Owner, container_of, owner_of, sees_every_process
from tests.collectors.devices.machine import CONTAINER, HOST, POD, kubernetes, proc

C = CONTAINER
UNDERSCORES = POD.replace("-", "_")
STATIC = "9f" * 16
SLICE = f"kubepods-burstable-pod{UNDERSCORES}.slice"


@pytest.mark.parametrize(
    ("path", "container_id", "pod_uid"),
    [
        pytest.param(f"/docker/{C}", C, None, id="docker, cgroupfs"),
        pytest.param(f"/system.slice/docker-{C}.scope", C, None, id="docker, systemd"),
        pytest.param(f"/system.slice/nerdctl-{C}.scope", C, None, id="nerdctl"),
        pytest.param(f"/machine.slice/libpod-{C}.scope", C, None, id="podman"),
        pytest.param(
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{C}.scope/container",
            C,
            None,
            id="podman without root",
        ),
        pytest.param(
            f"/machine.slice/machine-libpod_pod_{'b' * 64}.slice/libpod-{C}.scope",
            C,
            None,
            id="a podman pod is no pod of Kubernetes",
        ),
        pytest.param(f"/kubepods/burstable/pod{POD}/{C}", C, POD, id="containerd, cgroupfs"),
        pytest.param(f"/kubepods/pod{POD}/{C}", C, POD, id="guaranteed"),
        pytest.param(kubernetes(), C, POD, id="containerd, systemd"),
        pytest.param(
            f"/system.slice/containerd.service/{SLICE}:cri-containerd:{C}",
            C,
            POD,
            id="containerd with systemd's names in cgroupfs",
        ),
        pytest.param(f"/kubepods.slice/{SLICE}/crio-{C}.scope", C, POD, id="cri-o, systemd"),
        pytest.param(f"/kubepods.slice/{SLICE}/crio-{C}", C, POD, id="cri-o, cgroupfs"),
        pytest.param(f"/kubepods.slice/{SLICE}/docker-{C}.scope", C, POD, id="cri-dockerd"),
        pytest.param(
            f"/kubepods.slice/{SLICE}/crio-conmon-{C}.scope", None, POD, id="a container's monitor"
        ),
        pytest.param(f"/kubepods/besteffort/pod{STATIC}/{C}", C, STATIC, id="a static pod"),
        pytest.param(
            f"/docker/{'b' * 64}/kubelet/kubepods/pod{POD}/{C}", C, POD, id="a node in a container"
        ),
        pytest.param(f"/../{SLICE}/cri-containerd-{C}.scope", C, POD, id="seen from a container"),
        pytest.param(f"/ecs/{'c' * 32}/{C}", C, None, id="ECS"),
        pytest.param("/", None, None, id="the root"),
        pytest.param("/user.slice/user-0.slice/session-1.scope", None, None, id="a login"),
        pytest.param(f"/system.slice/pod{POD}x.service", None, None, id="no pod's name"),
        pytest.param(f"/user.slice/tripod{POD}.slice", None, None, id="no pod's name either"),
    ],
)
def test_the_container_and_the_pod_are_read_from(
    path: str, container_id: str | None, pod_uid: str | None
) -> None:
    unified = f"0::{path}\n"
    split = f"12:pids:{path}\n11:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/\n"
    assert container_of(unified) == (container_id, pod_uid)
    assert container_of(split) == (container_id, pod_uid)


@given(st.text())
def test_any_text_is_read(cgroup: str) -> None:
    container_id, pod_uid = container_of(cgroup)
    assert container_id is None or len(container_id) == 64
    assert pod_uid is None or len(pod_uid) in (32, 36)


def test_a_process_is_known_by_its_name_its_container_and_its_pod(tmp_path: Path) -> None:
    folder = proc(tmp_path / "proc", {7: ("VLLM::EngineCore", kubernetes())})
    assert owner_of(7, folder) == Owner("VLLM::EngineCore", C, POD)
    assert owner_of(8, folder) == Owner()


def test_a_name_that_is_no_text_is_readable_all_the_same(tmp_path: Path) -> None:
    folder = proc(tmp_path / "proc", {7: ("x", "/")})
    (folder / "7/comm").write_bytes(b"\xff\xfepython\n")
    assert owner_of(7, folder).name == "\ufffd\ufffdpython"


@pytest.mark.parametrize(("namespace", "expected"), [(HOST, True), ("pid:[4026532201]", False)])
def test_pids_are_the_machines_in_its_first_namespace_alone(
    tmp_path: Path, namespace: str, expected: bool
) -> None:
    assert sees_every_process(proc(tmp_path / "proc", {}, namespace)) is expected


def test_without_proc_no_pid_is_trusted(tmp_path: Path) -> None:
    assert not sees_every_process(tmp_path)
