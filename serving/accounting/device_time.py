"""Where the device's time goes: what was shared out, what was for nobody, and what was idle.

A step's time is the device's word, its begin and end are the host's, and with two steps under way the host learns of an
end late. So idle time is counted only as far as it is certain: what passed, less what was busy, as it looked at the worst
of the last few moments; when nothing is under way, all of it.
"""

from collections import deque

from serving.engine.request import DeviceClock

_MOMENTS = 8


class DeviceTime:
    """Nanoseconds since the start, in three parts; none of them ever falls.

    devices   that compute each step together, in the same time: what is counted here is the time of each of them. What
              is done between steps is the first one's work, and the others are idle meanwhile.
    """

    def __init__(self, now_ns: int, now_unix_ns: int, devices: int = 1) -> None:
        self._devices = devices
        self._started_ns = now_ns
        self._started_unix_ns = now_unix_ns
        self._attributed_ns = 0
        self._unattributed_ns = 0
        self._first_ns = 0  # attributed, of the first device alone
        self._idle_ns = 0
        self._looked_idle_ns: deque[int] = deque(maxlen=_MOMENTS)

    def believable(self, device_ns: int | None, now_ns: int) -> int:
        """The device's word for a step that is over, but no more than can have passed; None: all of that."""
        passed_ns = now_ns - self._started_ns - self.busy_ns - self._idle_ns
        return passed_ns if device_ns is None else min(device_ns, passed_ns)

    def attribute(self, device_ns: int) -> None:
        self._attributed_ns += device_ns

    def attribute_to_first(self, device_ns: int) -> None:
        self._first_ns += device_ns

    def leave_unattributed(self, device_ns: int) -> None:
        self._unattributed_ns += device_ns

    def look(self, now_ns: int, *, is_idle: bool) -> None:
        """A moment between steps; is_idle: nothing is under way."""
        idle_ns = now_ns - self._started_ns - self.busy_ns
        self._looked_idle_ns.append(idle_ns)
        if is_idle:
            self._looked_idle_ns.clear()
            self._idle_ns = max(self._idle_ns, idle_ns)
        elif len(self._looked_idle_ns) == _MOMENTS:
            self._idle_ns = max(self._idle_ns, min(self._looked_idle_ns))

    def clocks(self) -> list[DeviceClock]:
        """Of each device, up to the last moment for which it is known."""
        return [self._clock(self._first_ns), *[self._clock(0)] * (self._devices - 1)]

    def _clock(self, of_its_own_ns: int) -> DeviceClock:
        return DeviceClock(
            started_unix_ns=self._started_unix_ns,
            wall_ns=self.busy_ns + self._idle_ns,
            attributed_ns=self._attributed_ns + of_its_own_ns,
            unattributed_ns=self._unattributed_ns,
            idle_ns=self._idle_ns + self._first_ns - of_its_own_ns,
        )

    @property
    def busy_ns(self) -> int:
        """While this long at least one of them computed."""
        return self._attributed_ns + self._unattributed_ns + self._first_ns

    @property
    def busy_of_all_ns(self) -> int:
        return self._devices * (self._attributed_ns + self._unattributed_ns) + self._first_ns
