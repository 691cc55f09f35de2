"""Which cores an engine is given."""

import os


def read_cores(said: str) -> tuple[int, ...]:
    """The cores that are written as in taskset and cpuset files, such as 0-3,6; "" is none.

    Raises ValueError for what is no list of cores, and for cores that this process may not run on.
    """
    try:
        cores = [core for part in said.split(",") if part for core in _range(part)]
    except ValueError:
        raise ValueError(f"cores {said!r}: expected numbers of cores, such as 0-3,6") from None
    if len(set(cores)) < len(cores):
        raise ValueError(f"cores {said!r}: expected each core once")
    if cores and not hasattr(os, "sched_getaffinity"):
        raise ValueError(f"cores {said!r}: this system can't pin threads; leave the option out")
    if cores and not os.sched_getaffinity(0).issuperset(cores):
        allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        raise ValueError(f"cores {said!r}: expected some of those that are free to us: {allowed}")
    return tuple(cores)


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)
