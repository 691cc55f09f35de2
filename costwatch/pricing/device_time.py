"""Which team the time of one's own devices went to, in four figures (docs/attribution-of-device-time.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from costwatch.accounts.models import Organization
from costwatch.domain.allocation import share
from costwatch.domain.periods import Period
from costwatch.pricing.cost import CostRow, Dimension, costs


@dataclass(frozen=True, slots=True)
class TeamDeviceTime:
    """Nanoseconds that a team's calls took of one type of device; None: nobody's.

    device_ns                   what is billed; sums over teams to the attributed time
    device_ns_marginal          without a part of the steps' fixed time
    device_ns_alone             as if nobody else had been in any step
    device_ns_hour_normalised   each hour's attributed time, split by what the teams' calls added to it; sums to the same as
                                device_ns
    """

    team_id: int | None
    team: str
    device_type: str
    device_ns: int
    device_ns_marginal: int
    device_ns_alone: int
    device_ns_hour_normalised: int


def device_time(organization: Organization, period: Period) -> list[TeamDeviceTime]:
    """By device type and team, in their order, nobody's last; empty where no call ran on one's own devices."""
    rows = costs(
        organization, period, group_by=(Dimension.DEVICE_TYPE, Dimension.TEAM), interval="hour"
    )
    by_hour: dict[tuple[str, datetime | None], list[CostRow]] = defaultdict(list)
    for row in rows:
        if row.device_ns:
            by_hour[str(row.key[Dimension.DEVICE_TYPE]), row.start].append(row)
    normalised: dict[tuple[str, int | None], list[tuple[CostRow, int]]] = defaultdict(list)
    for (device_type, _), together in by_hour.items():
        for row, ns in zip(together, _normalised(together), strict=True):
            normalised[device_type, _team_id(row)].append((row, ns))
    found = [
        _sum(device_type, team_id, each) for (device_type, team_id), each in normalised.items()
    ]
    return sorted(found, key=lambda one: (one.device_type, one.team_id is None, one.team))


def _normalised(hour: Sequence[CostRow]) -> list[int]:
    """The hour's time, split by what each added; by what is billed where nobody said what was added."""
    total_ns = sum(row.device_ns for row in hour)
    added = [max(0, row.device_ns_marginal) for row in hour]
    return share(total_ns, added if any(added) else [row.device_ns for row in hour])


def _sum(
    device_type: str, team_id: int | None, hours: Iterable[tuple[CostRow, int]]
) -> TeamDeviceTime:
    rows = list(hours)
    return TeamDeviceTime(
        team_id,
        rows[0][0].label[Dimension.TEAM],
        device_type,
        sum(row.device_ns for row, _ in rows),
        sum(row.device_ns_marginal for row, _ in rows),
        sum(row.device_ns_alone for row, _ in rows),
        sum(ns for _, ns in rows),
    )


def _team_id(row: CostRow) -> int | None:
    team_id = row.key[Dimension.TEAM]
    return team_id if isinstance(team_id, int) else None
