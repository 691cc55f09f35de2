"""Who a process is: its name, its container and its pod, from /proc."""

import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the same in every kernel
_UUID = r"[0-9a-f]{8}(?P<dash>[-_])(?:[0-9a-f]{4}(?P=dash)){3}[0-9a-f]{12}"
# A static pod's uid is a hash without dashes. systemd's slices write _ for -.
_POD = re.compile(rf"(?:^|[/-])pod(?P<uid>{_UUID}|[0-9a-f]{{32}})(?=\.slice|[/:]|$)")
# docker-ID.scope, crio-ID.scope, libpod-ID.scope/container, …:cri-containerd:ID, podUID/ID
_CONTAINER = re.compile(r"(?<!conmon)[/:-](?P<id>[0-9a-f]{64})(?=\.scope|[/:]|$)")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a process is; None: not known, or in no container."""

    name: str | None = None
    container_id: str | None = None
    pod_uid: str | None = None


def sees_every_process(proc: Path = PROC) -> bool:
    """Whether a pid of the machine is the same process here: not in a pid namespace of a container's own."""
    try:
        return str((proc / "self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def owner_of(pid: int, proc: Path = PROC) -> Owner:
    """The process's name, container and pod. Of one that has ended nothing is known."""
    name, cgroup = _text(proc / str(pid) / "comm"), _text(proc / str(pid) / "cgroup")
    container_id, pod_uid = container_of(cgroup or "")
    return Owner(name.strip() if name else None, container_id, pod_uid)


def container_of(cgroup: str) -> tuple[str | None, str | None]:
    """The container's id and the pod's uid in the text of /proc/PID/cgroup, of either version.

    Of a container in a container it is the inner one. None: in none, or a cgroup namespace hides it.
    """
    paths = [line.split(":", 2)[-1] for line in cgroup.splitlines()]
    containers = (found for path in paths if (found := _last(_CONTAINER, path, "id")))
    pods = (found for path in paths if (found := _last(_POD, path, "uid")))
    pod_uid = next(pods, None)
    return next(containers, None), pod_uid.replace("_", "-") if pod_uid else None


def _last(pattern: re.Pattern[str], path: str, group: str) -> str | None:
    found = [match.group(group) for match in pattern.finditer(path)]
    return found[-1] if found else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
