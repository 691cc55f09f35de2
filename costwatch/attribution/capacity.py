"""Device clocks → capacity of hours.

A runtime reports how long its device was attributed, busy for nobody, or idle since it began: cumulative figures,
which may come twice or late. What is new since the last counted point is split over the hours that it covers, so
that attributed + unattributed + idle is the wall time of each hour, to the nanosecond.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import connection

from collectors import semconv
from collectors.observation import DeviceTime, Refusal
from costwatch.attribution.models import DeviceStream
from costwatch.domain.allocation import share, split_by_hour

_STATES = (
    semconv.DEVICE_STATE_ATTRIBUTED,
    semconv.DEVICE_STATE_UNATTRIBUTED,
    semconv.DEVICE_STATE_IDLE,
)
_CLOCKS_DIFFER_NS = 1_000_000_000
_ADD = """
INSERT INTO attribution_capacityhour
       (organization_id, hour, device_id, device_type, wall_ns, attributed_ns, unattributed_ns, idle_ns)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (organization_id, hour, device_id, device_type) DO UPDATE SET
       wall_ns = attribution_capacityhour.wall_ns + excluded.wall_ns,
       attributed_ns = attribution_capacityhour.attributed_ns + excluded.attributed_ns,
       unattributed_ns = attribution_capacityhour.unattributed_ns + excluded.unattributed_ns,
       idle_ns = attribution_capacityhour.idle_ns + excluded.idle_ns
"""


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
    points = _points(times)
    sound = [point for point in points if point.is_sound]
    for point in sorted(sound, key=lambda point: point.time_unix_ns):
        _count_point(organization_id, point)
    wrong = (len(points) - len(sound)) * len(_STATES)
    return (
        [Refusal("device time whose states do not sum to the time since its start", wrong)]
        if wrong
        else []
    )


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


def _count_point(organization_id: int, point: _Point) -> None:
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
        return  # sent again, or overtaken by a later one that includes it
    _add_hours(stream, point)
    stream.counted_unix_ns = point.time_unix_ns
    stream.attributed_ns = point.attributed_ns
    stream.unattributed_ns = point.unattributed_ns
    stream.idle_ns = point.idle_ns
    stream.save()


def _add_hours(stream: DeviceStream, point: _Point) -> None:
    grown = (
        point.attributed_ns - stream.attributed_ns,
        point.unattributed_ns - stream.unattributed_ns,
        point.idle_ns - stream.idle_ns,
    )
    if min(grown) < 0 or not any(grown):
        return  # a clock that runs backwards counts nothing; its next stream begins anew
    hours = split_by_hour(stream.counted_unix_ns, point.time_unix_ns)
    lengths = [length_ns for _, length_ns in hours]
    by_state = [share(total, lengths) for total in grown]
    with connection.cursor() as cursor:
        for i, (hour, _) in enumerate(hours):
            states = [shares[i] for shares in by_state]
            cursor.execute(
                _ADD,
                [
                    stream.organization_id,
                    hour,
                    stream.device_id,
                    stream.device_type,
                    sum(states),
                    *states,
                ],
            )
