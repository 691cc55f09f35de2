"""Device clocks → capacity of hours.

A runtime reports how long its device was attributed, busy for nobody, or idle since it began; an agent that watches
devices reports how long each was busy, for whomever, or idle. Cumulative figures, which may come twice or late. What is
new since the last counted point is split over the hours that it covers, so that the states of an hour are its wall
time, to the nanosecond.

Several may tell of one device. Each tells of its own time, so where their times overlap an hour is told more than
once, and what one of them used is idle to the others. The overlap is told apart: a device's hour is counted once,
whoever tells of it and in whatever order (CapacityHour says how).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from itertools import accumulate, pairwise

from django.db import connection

from collectors import semconv
from collectors.observation import DeviceTime, Refusal
from costwatch.attribution import modelled
from costwatch.attribution.models import DeviceStream
from costwatch.domain.allocation import covered_ns, share, split_by_hour

_CLOCKS_DIFFER_NS = 1_000_000_000
_ADD = """
INSERT INTO attribution_capacityhour AS kept
       (organization_id, hour, device_id, device_type,
        told_attributed_ns, told_unattributed_ns, observed_busy_ns, told_idle_ns, overlap_ns)
SELECT %(organization_id)s, hour, %(device_id)s, %(device_type)s, attributed_ns, unattributed_ns, busy_ns, idle_ns, overlap_ns
  FROM unnest(%(hours)s::timestamptz[], %(attributed_ns)s::bigint[], %(unattributed_ns)s::bigint[],
              %(busy_ns)s::bigint[], %(idle_ns)s::bigint[], %(overlap_ns)s::bigint[])
       AS grown (hour, attributed_ns, unattributed_ns, busy_ns, idle_ns, overlap_ns)
ON CONFLICT (organization_id, hour, device_id, device_type) DO UPDATE SET
       told_attributed_ns = kept.told_attributed_ns + excluded.told_attributed_ns,
       told_unattributed_ns = kept.told_unattributed_ns + excluded.told_unattributed_ns,
       observed_busy_ns = kept.observed_busy_ns + excluded.observed_busy_ns,
       told_idle_ns = kept.told_idle_ns + excluded.told_idle_ns,
       overlap_ns = kept.overlap_ns + excluded.overlap_ns
"""
_UNSOUND = "device time whose states do not sum to the time since its start"
_BACKWARDS = "device time that is less than what was counted of the same clock"


@dataclass(frozen=True, slots=True)
class _States:
    """Nanoseconds in each; who knows whose the time is has no busy_ns, who watches only has nothing else but idle."""

    attributed_ns: int = 0
    unattributed_ns: int = 0
    busy_ns: int = 0
    idle_ns: int = 0

    def each(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def since(self, before: "_States") -> "_States":
        earlier = before.each()
        return _States(**{name: ns - earlier[name] for name, ns in self.each().items()})


# Which states a clock has, together: with one of them missing nothing can be conserved.
_RUNTIMES = {
    semconv.DEVICE_STATE_ATTRIBUTED: "attributed_ns",
    semconv.DEVICE_STATE_UNATTRIBUTED: "unattributed_ns",
    semconv.DEVICE_STATE_IDLE: "idle_ns",
}
_WATCHERS = {semconv.DEVICE_STATE_BUSY: "busy_ns", semconv.DEVICE_STATE_IDLE: "idle_ns"}
_STATES_OF = {frozenset(names): names for names in (_RUNTIMES, _WATCHERS)}


@dataclass(frozen=True, slots=True)
class _Point:
    """All states of a device at one moment."""

    stream: tuple[str, str, str, int]  # instance, device, device type, begun
    service_name: str
    time_unix_ns: int
    states: _States
    is_watchers: bool  # of one who knows not whose the time is

    @property
    def is_sound(self) -> bool:
        """The states are the time since the device's clock began, but for what clocks differ by."""
        elapsed_ns = self.time_unix_ns - self.stream[3]
        states_ns = sum(self.states.each().values())
        return abs(states_ns - elapsed_ns) <= _CLOCKS_DIFFER_NS + elapsed_ns // 100


def count(organization_id: int, times: Iterable[DeviceTime]) -> list[Refusal]:
    """Add to CapacityHour what these points say beyond what is counted, and say what was refused.

    Runs under ingest's lock.
    """
    refused: Counter[str] = Counter()
    watched: list[datetime] = []
    for point in sorted(_points(times), key=lambda point: point.time_unix_ns):
        wrong = _count_point(organization_id, point, watched) if point.is_sound else _UNSOUND
        if wrong:
            refused[wrong] += len(_WATCHERS if point.is_watchers else _RUNTIMES)
    if watched:
        # Calls of runtimes that do not measure share it; those that began in the hour before, too.
        modelled.mark(organization_id, min(watched) - timedelta(hours=1), max(watched))
    return [Refusal(reason, points) for reason, points in refused.items()]


def _points(times: Iterable[DeviceTime]) -> Iterator[_Point]:
    """Points with all their states; of one that lacks some, the next one has them."""
    by_moment: dict[tuple[tuple[str, str, str, int], int], dict[str, DeviceTime]] = defaultdict(
        dict
    )
    for time in times:
        stream = (time.instance_id, time.device_id, time.device_type, time.start_unix_ns)
        by_moment[stream, time.time_unix_ns][time.state] = time
    for (stream, moment), told in by_moment.items():
        names = _STATES_OF.get(frozenset(told))
        if names is not None:
            states = _States(**{name: told[state].value_ns for state, name in names.items()})
            service_name = next(iter(told.values())).service_name
            yield _Point(stream, service_name, moment, states, names is _WATCHERS)


def _count_point(organization_id: int, point: _Point, watched: list[datetime]) -> str:
    """Why the point was not counted; empty where it was, or had been. A watcher's hours are added to `watched`."""
    instance_id, device_id, device_type, started = point.stream
    stream, _ = DeviceStream.objects.get_or_create(
        organization_id=organization_id,
        instance_id=instance_id[:255],
        device_id=device_id[:255],
        started_unix_ns=started,
        defaults={
            "service_name": point.service_name[:255],
            "device_type": device_type[:255],
            "counted_unix_ns": started,
            **_States().each(),
        },
    )
    if point.time_unix_ns <= stream.counted_unix_ns:
        return ""  # sent again, or overtaken by a later one that includes it
    before = _States(**{name: getattr(stream, name) for name in _States().each()})
    grown = point.states.since(before)
    if min(grown.each().values()) < 0:
        return _BACKWARDS
    hours = _add_hours(stream, point.time_unix_ns, grown)
    if point.is_watchers:
        watched += hours
    stream.counted_unix_ns = point.time_unix_ns
    for name, ns in point.states.each().items():
        setattr(stream, name, ns)
    stream.save()
    return ""


def _add_hours(stream: DeviceStream, until_unix_ns: int, grown: _States) -> Sequence[datetime]:
    """Returns the hours, in order."""
    parts = split_by_hour(stream.counted_unix_ns, until_unix_ns)
    hours, lengths = [hour for hour, _ in parts], [length_ns for _, length_ns in parts]
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD,
            {
                "organization_id": stream.organization_id,
                "hours": hours,
                "device_id": stream.device_id,
                "device_type": stream.device_type,
                **{name: share(ns, lengths) for name, ns in grown.each().items()},
                "overlap_ns": _overlaps(stream, until_unix_ns, lengths),
            },
        )
    return hours


def _overlaps(stream: DeviceStream, until_unix_ns: int, lengths: Sequence[int]) -> list[int]:
    """Of each part of the time from what is counted on, how much of it other clocks of the device have told already."""
    others = DeviceStream.objects.filter(
        organization_id=stream.organization_id,
        device_id=stream.device_id,
        counted_unix_ns__gt=stream.counted_unix_ns,
        started_unix_ns__lt=until_unix_ns,
    ).exclude(pk=stream.pk)
    told = list(others.values_list("started_unix_ns", "counted_unix_ns"))
    edges = accumulate(lengths, initial=stream.counted_unix_ns)
    return [covered_ns(told, start, end) for start, end in pairwise(edges)]
