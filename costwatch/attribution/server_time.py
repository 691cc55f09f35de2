"""How much of an hour a runtime that does not measure had of its devices.

Its telemetry says when calls were in its model; that is the time in which it was at work, once for each of its devices. Where an
agent watched a device for the whole hour (costwatch-collect devices), what the device was busy with is known better: then that
much is shared out, less what runtimes that measure used of the same device, and never more than the time at work, for
other programs may have been there. Several servers on one device share it by their times at work.

    Server          a service in an environment, and its devices
    server_times    what each had of its devices, by hour
    keep_modelled   the same as a part of the devices' capacity
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from costwatch.attribution.models import CapacityHour
from costwatch.domain.allocation import HOUR_NS, share

_WATCHED_NS = HOUR_NS * 99 // 100  # of the hour, by readings that are seconds apart

Hour = int  # since 1970
Shares = Mapping[Hour, Sequence[int]]  # of each call, by hour; in_model_shares()


class Server(NamedTuple):
    """device_ids is empty where nobody says which: then it is taken to have one."""

    service_name: str
    environment: str
    device_ids: tuple[str, ...]


def server_of(service_name: str, environment: str, device_ids: str) -> Server:
    """device_ids as telemetry has them: apart by spaces, commas or semicolons."""
    ids = device_ids.replace(",", " ").replace(";", " ").split()
    return Server(service_name, environment, tuple(sorted(set(ids))))


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """Nanoseconds that servers had of devices, by hour. A server without known devices has one of no name."""

    used: Mapping[tuple[Hour, str, Server], int]

    def of_calls(self, server: Server, shares: Shares, calls: int) -> list[int]:
        """What each call had of all of the server's devices, in all hours."""
        totals = [0] * calls
        for hour, in_hour in shares.items():
            whole = sum(self.used[hour, device, server] for device in _devices(server))
            for place, ns in enumerate(share(whole, in_hour) if any(in_hour) else in_hour):
                totals[place] += ns
        return totals


def _devices(server: Server) -> tuple[str, ...]:
    return server.device_ids or ("",)


def server_times(organization_id: int, shares: Mapping[Server, Shares]) -> ServerTimes:
    """shares: of each server's calls; in an hour they sum to the time in which it was at work."""
    at_work: dict[tuple[Hour, str], dict[Server, int]] = defaultdict(dict)
    for each, by_hour in shares.items():
        for hour, in_hour in by_hour.items():
            for device in _devices(each):
                at_work[hour, device][each] = sum(in_hour)
    watched = _watched(organization_id, at_work)
    return ServerTimes(
        {
            (*place, each): ns
            for place, wanted in at_work.items()
            for each, ns in _split(wanted, watched.get(place)).items()
        }
    )


def _split(wanted: Mapping[Server, int], busy_ns: int | None) -> dict[Server, int]:
    """What each server had of a device; busy_ns None: nobody watched, and each had all of its time at work."""
    if busy_ns is None or not any(wanted.values()):
        return dict(wanted)
    servers = sorted(wanted)
    parts = share(busy_ns, [wanted[each] for each in servers])
    return {each: min(ns, wanted[each]) for each, ns in zip(servers, parts, strict=True)}


def _watched(
    organization_id: int, places: Iterable[tuple[Hour, str]]
) -> dict[tuple[Hour, str], int]:
    """What is left of a device's busy time when runtimes have told theirs, where it was watched all the hour."""
    wanted = {(_moment(hour), device) for hour, device in places if device}
    rows = CapacityHour.objects.filter(
        organization_id=organization_id,
        hour__in={hour for hour, _ in wanted},
        device_id__in={device for _, device in wanted},
        observed_busy_ns__gt=0,
    )
    return {
        (int(row.hour.timestamp()) // 3600, row.device_id): max(
            row.observed_busy_ns - row.told_attributed_ns - row.told_unattributed_ns, 0
        )
        for row in rows
        if row.passed_ns >= _WATCHED_NS
    }


def keep_modelled(organization_id: int, hour: datetime, times: ServerTimes) -> None:
    """The hour's capacity says what these servers used. A device that nobody watches has no capacity to be part of."""
    by_device: dict[str, int] = defaultdict(int)
    for (used_hour, device, _), ns in times.used.items():
        if _moment(used_hour) == hour:
            by_device[device] += ns
    rows = CapacityHour.objects.filter(organization_id=organization_id, hour=hour)
    rows.exclude(device_id__in=by_device).exclude(modelled_ns=0).update(modelled_ns=0)
    for device, ns in by_device.items():
        rows.filter(device_id=device, observed_busy_ns__gt=0).update(modelled_ns=ns)


def _moment(hour: Hour) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC)


__all__ = ["Server", "ServerTimes", "keep_modelled", "server_of", "server_times"]
