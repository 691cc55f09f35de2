"""Folders as Linux lays them out in /proc and /sys."""

from pathlib import Path

HOST = "pid:[4026531836]"
CONTAINER = "a1" * 32
POD = "0f5e4c21-7b8a-4d53-9c1e-2f6a7b8c9d0e"


def proc(folder: Path, pids: dict[int, tuple[str, str]], namespace: str = HOST) -> Path:
    """A /proc with these processes: name and cgroup by pid."""
    (folder / "self/ns").mkdir(parents=True)
    (folder / "self/ns/pid").symlink_to(namespace)
    for pid, (name, cgroup) in pids.items():
        (folder / str(pid)).mkdir()
        (folder / str(pid) / "comm").write_text(f"{name}\n")
        (folder / str(pid) / "cgroup").write_text(f"0::{cgroup}\n")
    return folder


def kubernetes(container_id: str = CONTAINER, pod_uid: str = POD) -> str:
    pod = pod_uid.replace("-", "_")
    return f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{container_id}.scope"


def powercap(folder: Path, **zones: tuple[str, int]) -> Path:
    """A /sys/class/powercap; zones are written rapl_0, rapl_0_1: a name and microjoules."""
    for zone, (name, energy_uj) in zones.items():
        path = folder / zone.replace("rapl_", "intel-rapl:").replace("_", ":")
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        (path / "max_energy_range_uj").write_text("262143328850\n")
    return folder
