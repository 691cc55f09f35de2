"""The processes on a GPU or a MIG instance: memory and utilization of each, and whose it is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pynvml

from collectors.devices.containers import PROC, owner_of, sees_every_process
from collectors.devices.inquiry import Inquiry, Nvml
from collectors.devices.samples import Gap, ProcessSample

# A device rarely runs more. Beyond it the small ones are one, so that nobody can fill a database with processes.
_MOST_PROCESSES = 32
_OTHERS = "other"
# What pynvml raises where nothing ran: it takes an empty answer (success) for an error, too.
_NOTHING_RAN = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS)


class Processes:
    """Reads processes, and remembers per device up to when their utilization was read."""

    def __init__(self, nvml: Nvml, proc: Path = PROC) -> None:
        self._nvml = nvml
        self._proc = proc
        self._seen_us: dict[str, int] = {}

    def on_gpu(
        self, handle: Any, utilization: float | None, inquiry: Inquiry
    ) -> tuple[ProcessSample, ...] | None:
        """Those of an undivided GPU; None, and a gap, where they are not known. Raises DeviceLost."""
        memory_bytes = self._running(handle, inquiry)
        if memory_bytes is None:
            return None
        shares = inquiry.ask(
            "processes.utilization", self._utilization, handle, inquiry.device_id, memory_bytes
        )
        # The driver lists only who has used the device. On an idle one that is nobody; on a busy one a process
        # that is not listed may just not have been looked at yet.
        unlisted = 0.0 if utilization == 0 and shares is not None else None
        return self._samples(memory_bytes, shares or {}, unlisted)

    def on_instance(self, handle: Any, inquiry: Inquiry) -> tuple[ProcessSample, ...] | None:
        """Those of a MIG instance, whose utilization nobody counts. Raises DeviceLost."""
        memory_bytes = self._running(handle, inquiry)
        return None if memory_bytes is None else self._samples(memory_bytes, {}, None)

    def _running(self, handle: Any, inquiry: Inquiry) -> dict[int, int | None] | None:
        """Memory in bytes by pid."""
        if not sees_every_process(self._proc):
            inquiry.leave_out(_other_pids(inquiry.device_id))
            return None
        compute = inquiry.ask("processes", self._list, "Compute", handle)
        if compute is None:
            return None
        found = list(compute)
        for kind in ("Graphics", "MPSCompute"):
            found += inquiry.ask_if_it_exists("processes.others", [], self._list, kind, handle)
        return {each.pid: each.usedGpuMemory for each in reversed(found)}

    def _list(self, kind: str, handle: Any) -> list[Any]:
        """Raises NVMLError."""
        name = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            return list(getattr(self._nvml, f"{name}_v3")(handle))
        except pynvml.NVMLError_FunctionNotFound:  # drivers before 510
            return list(getattr(self._nvml, f"{name}_v2")(handle))

    def _utilization(
        self, handle: Any, device_id: str, running: Mapping[int, object]
    ) -> dict[int, float]:
        """The newest utilization by pid since the last time. Raises NVMLError."""
        seen_us = self._seen_us.get(device_id, 0)
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(handle, seen_us)
        except pynvml.NVMLError as error:
            if error.value not in _NOTHING_RAN:
                raise
            return {}
        # The driver fills its buffer's rest with rubbish: unknown pids, percentages beyond 100.
        good = [each for each in samples if each.pid in running and each.smUtil <= 100]
        good.sort(key=lambda each: int(each.timeStamp))
        if good:
            self._seen_us[device_id] = good[-1].timeStamp
        return {each.pid: each.smUtil / 100 for each in good}

    def _samples(
        self,
        memory_bytes: Mapping[int, int | None],
        shares: Mapping[int, float],
        unlisted: float | None,
    ) -> tuple[ProcessSample, ...]:
        by_size = sorted(memory_bytes, key=lambda pid: (-(memory_bytes[pid] or 0), pid))
        named, rest = by_size[:_MOST_PROCESSES], by_size[_MOST_PROCESSES:]
        samples = [self._sample(pid, memory_bytes[pid], shares.get(pid, unlisted)) for pid in named]
        if rest:
            memory = [memory_bytes[pid] for pid in rest]
            samples.append(_others(memory, [shares.get(pid, unlisted) for pid in rest]))
        return tuple(samples)

    def _sample(self, pid: int, memory_bytes: int | None, share: float | None) -> ProcessSample:
        owner = owner_of(pid, self._proc)
        return ProcessSample(
            pid=pid,
            name=owner.name,
            memory_used_bytes=memory_bytes,
            utilization=share,
            container_id=owner.container_id,
            pod_uid=owner.pod_uid,
        )


def _others(memory_bytes: Iterable[int | None], shares: Iterable[float | None]) -> ProcessSample:
    memory, share = _sum(memory_bytes), _sum(shares)
    return ProcessSample(
        pid=None,
        name=_OTHERS,
        memory_used_bytes=None if memory is None else int(memory),
        utilization=share,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """None where one is not known: a part is no sum."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _other_pids(device_id: str) -> Gap:
    return Gap(
        device_id=device_id,
        device_type="gpu",
        counter="processes",
        reason="own_pid_namespace",
        because="the machine's process ids mean nothing in this container;"
        " start the agent with --pid=host, in Kubernetes hostPID: true",
    )
