"""Device clocks → capacity of hours.

A runtime reports how long its device was attributed, busy for nobody, or idle since it began: cumulative figures,
which may come twice or late. What is new since the last counted point is split over the hours that it covers, so
that attributed + unattributed + idle is the wall time of each hour, to the nanosecond.

Several runtimes may share a device. Each tells of its own time, so where their times overlap an hour is told more than
once, and what one of them used is idle to the others. The overlap is taken off what they call idle: a device's hour is
counted once, whoever tells of it and in whatever order. Where they claim more than passed, nothing is idle.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from django.db import connection

from collectors import semconv
from collectors.observation import DeviceTime, Refusal
from costwatch.attribution.models import DeviceStream
from costwatch.domain.allocation import covered_ns, share, split_by_hour

_STATES = (
    semconv.DEVICE_STATE_ATTRIBUTED,
    semconv.DEVICE_STATE_UNATTRIBUTED,
    semconv.DEVICE_STATE_IDLE,
)
_CLOCKS_DIFFER_NS = 1_000_000_000
_ADD = """
WITH grown AS (
SELECT hour, coalesce(kept.attributed_ns, 0) + new.attributed_ns AS attributed_ns,
       coalesce(kept.unattributed_ns, 0) + new.unattributed_ns AS unattributed_ns,
       coalesce(kept.told_idle_ns, 0) + new.idle_ns AS told_idle_ns,
       coalesce(kept.overlap_ns, 0) + new.overlap_ns AS overlap_ns
  FROM unnest(%(hours)s::timestamptz[], %(attributed)s::bigint[], %(unattributed)s::bigint[],
              %(idle)s::bigint[], %(overlap)s::bigint[])
       AS new (hour, attributed_ns, unattributed_ns, idle_ns, overlap_ns)
  LEFT JOIN (SELECT * FROM attribution_capacityhour
              WHERE organization_id = %(organization_id)s AND device_id = %(device_id)s
                AND device_type = %(device_type)s) AS kept USING (hour))
INSERT INTO attribution_capacityhour
       (organization_id, hour, device_id, device_type, wall_ns,
        attributed_ns, unattributed_ns, idle_ns, told_idle_ns, overlap_ns)
SELECT %(organization_id)s, hour, %(device_id)s, %(device_type)s,
       attributed_ns + unattributed_ns + greatest(told_idle_ns - overlap_ns, 0),
       attributed_ns, unattributed_ns, greatest(told_idle_ns - overlap_ns, 0), told_idle_ns, overlap_ns
  FROM grown
ON CONFLICT (organization_id, hour, device_id, device_type) DO UPDATE SET
       wall_ns = excluded.wall_ns,
       attributed_ns = excluded.attributed_ns,
       unattributed_ns = excluded.unattributed_ns,
       idle_ns = excluded.idle_ns,
       told_idle_ns = excluded.told_idle_ns,
       overlap_ns = excluded.overlap_ns
"""
_UNSOUND = "device time whose states do not sum to the time since its start"
_BACKWARDS = "device time that is less than what was counted of the same clock"


@dataclass(frozen=True, slots=True)
class _Point:
    """All states of a device at one moment."""

    stream: tuple[str, str, str, int]  # instance, device, device type, begun
    service_name: str
    time_unix_ns: int
    attributed_ns: int
    unattributed_ns: int
    idle_ns: int

    @property
    def is_sound(self) -> bool:
        """The states are the time since the device's clock began, but for what clocks differ by."""
        elapsed_ns = self.time_unix_ns - self.stream[3]
        states_ns = self.attributed_ns + self.unattributed_ns + self.idle_ns
        return abs(states_ns - elapsed_ns) <= _CLOCKS_DIFFER_NS + elapsed_ns // 100


def count(organization_id: int, times: Iterable[DeviceTime]) -> list[Refusal]:
    """Add to CapacityHour what these points say beyond what is counted, and say what was refused.

    Runs under ingest's lock.
    """
    refused: Counter[str] = Counter()
    for point in sorted(_points(times), key=lambda point: point.time_unix_ns):
        wrong = _count_point(organization_id, point) if point.is_sound else _UNSOUND
        if wrong:
            refused[wrong] += len(_STATES)
    return [Refusal(reason, points) for reason, points in refused.items()]


def _points(times: Iterable[DeviceTime]) -> list[_Point]:
    """Points with all three states; one without the others can't be conserved, and the next one has them."""
    by_moment: dict[tuple[tuple[str, str, str, int], int], dict[str, DeviceTime]] = defaultdict(
        dict
    )
    for time in times:
        stream = (time.instance_id, time.device_id, time.device_type, time.start_unix_ns)
        by_moment[stream, time.time_unix_ns][time.state] = time
    return [
        _Point(
            stream,
            next(iter(states.values())).service_name,
            moment,
            *(states[state].value_ns for state in _STATES),
        )
        for (stream, moment), states in by_moment.items()
        if all(state in states for state in _STATES)
    ]


def _count_point(organization_id: int, point: _Point) -> str:
    """Why the point was not counted; empty where it was, or had been."""
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
            "attributed_ns": 0,
            "unattributed_ns": 0,
            "idle_ns": 0,
        },
    )
    if point.time_unix_ns <= stream.counted_unix_ns:
        return ""  # sent again, or overtaken by a later one that includes it
    grown = (
        point.attributed_ns - stream.attributed_ns,
        point.unattributed_ns - stream.unattributed_ns,
        point.idle_ns - stream.idle_ns,
    )
    if min(grown) < 0:
        return _BACKWARDS
    _add_hours(stream, point.time_unix_ns, grown)
    stream.counted_unix_ns = point.time_unix_ns
    stream.attributed_ns = point.attributed_ns
    stream.unattributed_ns = point.unattributed_ns
    stream.idle_ns = point.idle_ns
    stream.save()
    return ""


def _add_hours(stream: DeviceStream, until_unix_ns: int, grown: Sequence[int]) -> None:
    hours = split_by_hour(stream.counted_unix_ns, until_unix_ns)
    lengths = [length_ns for _, length_ns in hours]
    attributed, unattributed, idle = (share(total, lengths) for total in grown)
    overlap = _overlaps(stream, until_unix_ns, lengths)
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD,
            {
                "organization_id": stream.organization_id,
                "hours": [hour for hour, _ in hours],
                "device_id": stream.device_id,
                "device_type": stream.device_type,
                "attributed": attributed,
                "unattributed": unattributed,
                "idle": idle,
                "overlap": overlap,
            },
        )


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
