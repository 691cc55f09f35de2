"""Who carries the time of a pool's devices that no call used: idle, or busy for nobody.

weights      in what proportion payers carry an hour's rest, by a policy
rests_of     how much of each hour is left beside what calls used
split        a whole number over payers, to the last digit
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from costwatch.domain.allocation import share

Payer = int | None  # a team's id; None: the platform, and what is unattributed

PERCENT = 100


class Policy(StrEnum):
    """Who carries what no call used."""

    PLATFORM = "platform"  # nobody's team
    PROPORTIONAL = "proportional"  # by use in the hour; of an hour without any, by the month's
    RESERVED = "reserved"  # who reserved a part and did not use it
    PEAK = "peak"  # by each one's busiest hour of the month


@dataclass(frozen=True, slots=True)
class Use:
    """A month's use of a pool by payer, in nanoseconds: altogether, and in the busiest hour."""

    total_ns: Mapping[Payer, int] = field(default_factory=dict)
    peak_ns: Mapping[Payer, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HourUse:
    """What devices told of an hour and what the calls that began in it used, in nanoseconds."""

    wall_ns: int
    idle_ns: int
    used_ns: int


@dataclass(frozen=True, slots=True)
class Rest:
    """What of an hour no call used, in nanoseconds."""

    idle_ns: int
    unattributed_ns: int

    @property
    def ns(self) -> int:
        return self.idle_ns + self.unattributed_ns


def rests_of(hours: Iterable[HourUse]) -> Iterator[Rest]:
    """The rest of each hour, in order of time.

    A call counts in the hour in which it began, and may run on into the next. What is used beyond an hour's wall time
    is therefore taken from the next hours' rest, so that use and rests together are the wall time, or the use where
    that is more. Time that devices say went to calls, and no call began in, is busy for nobody.
    """
    beyond_ns = 0
    for hour in hours:
        left_ns = hour.wall_ns - hour.used_ns - beyond_ns
        beyond_ns = max(0, -left_ns)
        rest_ns = max(0, left_ns)
        idle_ns = min(hour.idle_ns, rest_ns)
        yield Rest(idle_ns, rest_ns - idle_ns)


def use_of(hours: Iterable[Mapping[Payer, int]]) -> Use:
    """hours   each hour's use by payer, in nanoseconds."""
    total: dict[Payer, int] = {}
    peak: dict[Payer, int] = {}
    for hour in hours:
        for payer, ns in hour.items():
            total[payer] = total.get(payer, 0) + ns
            peak[payer] = max(peak.get(payer, 0), ns)
    return Use(total, peak)


def weights(
    policy: Policy,
    wall_ns: int,
    used_ns: Mapping[Payer, int],
    month: Use,
    reserved_percent: Mapping[int, int],
) -> Mapping[Payer, int]:
    """In what proportion payers carry an hour's rest. None is negative, and one is positive: with nobody else there,
    the platform's."""
    chosen: Mapping[Payer, int] = {}
    if policy is Policy.PROPORTIONAL:
        chosen = used_ns if any(ns > 0 for ns in used_ns.values()) else month.total_ns
    elif policy is Policy.PEAK:
        chosen = month.peak_ns
    elif policy is Policy.RESERVED:
        chosen = _unused(wall_ns, used_ns, reserved_percent)
    return {payer: weight for payer, weight in chosen.items() if weight > 0} or {None: 1}


def _unused(
    wall_ns: int, used_ns: Mapping[Payer, int], reserved_percent: Mapping[int, int]
) -> Mapping[Payer, int]:
    """What each reserved and did not use, times PERCENT; what nobody reserved is the platform's, used by all others."""
    unused: dict[Payer, int] = {
        team: max(0, wall_ns * percent - used_ns.get(team, 0) * PERCENT)
        for team, percent in reserved_percent.items()
    }
    others_ns = sum(ns for payer, ns in used_ns.items() if payer not in reserved_percent)
    free_percent = PERCENT - sum(reserved_percent.values())
    unused[None] = max(0, wall_ns * free_percent - others_ns * PERCENT)
    return unused


def split(total: int, by: Mapping[Payer, int]) -> dict[Payer, int]:
    """Parts of a whole total in proportion to weights; they sum to it exactly (see share)."""
    payers = sorted(by, key=lambda payer: (payer is None, payer or 0))
    return dict(zip(payers, share(total, [by[payer] for payer in payers]), strict=True))
