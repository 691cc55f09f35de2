"""Latencies as sparse logarithmic histograms: they add up over hours, sources and machines, averages do not.

DDSketch's mapping (Masson, Rim and Lee, VLDB 2019): bucket i holds the values in (GAMMA^(i-1), GAMMA^i], and any
percentile read from the buckets is within RELATIVE_ERROR of the true one.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RELATIVE_ERROR = 0.02
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LN_GAMMA = math.log(GAMMA)
_EDGE = 1e-9


def bucket_of(value_ns: int) -> int:
    """The bucket of a duration. Everything up to one nanosecond falls into bucket 0."""
    return math.ceil(math.log(value_ns) / LN_GAMMA) if value_ns > 1 else 0


def buckets_of(values_ns: NDArray[Any]) -> NDArray[np.int64]:
    """The buckets of many durations."""
    exact = np.log(np.maximum(values_ns, 1).astype(np.float64)) / LN_GAMMA
    buckets: NDArray[np.int64] = np.ceil(exact).astype(np.int64)
    # numpy's logarithm may differ from the C library's in the last digit, which tells at a bucket's very edge.
    for place in np.flatnonzero(np.abs(exact - np.rint(exact)) < _EDGE):
        buckets[place] = bucket_of(int(values_ns[place]))
    return buckets


def value_of(bucket: int) -> int:
    """The duration in nanoseconds that is within RELATIVE_ERROR of everything in the bucket."""
    return round(2 * GAMMA**bucket / (GAMMA + 1)) if bucket else 1


def percentile(buckets: Mapping[int, int], fraction: float) -> int | None:
    """The duration in nanoseconds below which `fraction` of the calls lie; None without calls.

    buckets   calls by bucket; none is negative.
    """
    calls = sum(buckets.values())
    if calls == 0:
        return None
    rank = fraction * (calls - 1)
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen > rank:
            return value_of(bucket)
    raise AssertionError("the calls of the buckets sum to less than their sum")
