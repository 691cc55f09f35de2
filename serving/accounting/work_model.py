"""Whose work a step's time was.

A step takes T ≈ fixed + prefill·tokens + decode·tokens + context·keys that answers read + prefill context·keys that
prompts read; the last grows with the square of a long prompt. The coefficients are fitted to the steps themselves; they
decide proportions only, and what is split is the time that was measured. With the fixed part shared evenly, a share is
the Shapley value of that game: what a request adds, averaged over every order in which the step's requests could have
come (docs/attribution-of-device-time.md has the proof).

    Work           what one request made a step do
    Coefficients   what a step's parts take
    Share          what one request is charged, and two figures beside it
    WorkModel      observes steps, fits coefficients
"""

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_FEATURES = 5
_STEPS_KEPT = 2_000
_STEPS_BETWEEN_FITS = (
    64  # at first; a fit takes milliseconds, so later they are eight times as rare
)
_STEPS_BETWEEN_LATER_FITS = 512
_STEPS_WATCHED = 256  # for errors: what the model said of them before it had seen them
_WORST_ERROR = 0.5  # of the median step; a model that is further off says less than counting tokens
_STEPS_TO_FIT = 16  # in all
_STEPS_OF_A_KIND = 6  # with prefill, and with decode: what was never seen cannot be told apart
_HUBER_ROUNDS = 8
_HUBER_WIDTH = (
    1.345  # in robust standard deviations: 95 % as efficient as least squares without outliers
)
_WEIGHT_SCALE = 2**40  # weights are whole numbers: a step is shared to the 10⁻¹² part


@dataclass(frozen=True, slots=True)
class Work:
    """What one request made a step do. context_tokens are keys that the attention of its answer read,
    prefill_context_tokens those that its prompt's did."""

    prefill_tokens: int
    decode_tokens: int
    context_tokens: int
    prefill_context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Nanoseconds; none is negative."""

    fixed_ns: float
    prefill_token_ns: float
    decode_token_ns: float
    context_token_ns: float
    prefill_context_token_ns: float = 0.0

    def own_ns(self, work: Work) -> float:
        """What the work takes beside the fixed part."""
        return (
            self.prefill_token_ns * work.prefill_tokens
            + self.decode_token_ns * work.decode_tokens
            + self.context_token_ns * work.context_tokens
            + self.prefill_context_token_ns * work.prefill_context_tokens
        )

    def step_ns(self, features: Sequence[float]) -> float:
        """What a step takes, by the model. features as _features has them."""
        values = (
            self.fixed_ns,
            self.prefill_token_ns,
            self.decode_token_ns,
            self.context_token_ns,
            self.prefill_context_token_ns,
        )
        return sum(value * count for value, count in zip(values, features, strict=True))


# Until there is a fit: by tokens computed, nothing fixed.
PLAIN = Coefficients(0.0, 1.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Share:
    """device_ns sums over a step's requests to the step. marginal_ns ≤ device_ns ≤ alone_ns."""

    device_ns: int
    marginal_ns: int  # without a part of the fixed time
    alone_ns: int  # with all of it, as if nobody else had been there


NOTHING = Share(0, 0, 0)


def share_step(step_ns: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Share one engine step's device time among the requests that it served.

    step_ns   device time of the step in nanoseconds.
    weights   work done, by request id, none negative. At least one is positive.

    Returns nanoseconds by request id. They sum to step_ns exactly: what rounding leaves over goes to the
    largest remainders, so a day of steps loses no time. Raises ValueError where there is nothing to share by.
    """
    total = sum(weights.values())
    if total <= 0 or min(weights.values()) < 0:
        raise ValueError(f"weights {dict(weights)!r}: expected none negative and one positive")
    shares = {request_id: step_ns * weight // total for request_id, weight in weights.items()}
    left_over = step_ns - sum(shares.values())
    by_remainder = sorted(weights, key=lambda request_id: -(step_ns * weights[request_id] % total))
    for request_id in by_remainder[:left_over]:
        shares[request_id] += 1
    return shares


def attribute(
    step_ns: int, works: Mapping[str, Work], coefficients: Coefficients
) -> dict[str, Share]:
    """Each request's share of a step of step_ns, by request id. Raises ValueError without requests."""
    own = {request_id: coefficients.own_ns(work) for request_id, work in works.items()}
    fixed = coefficients.fixed_ns
    predicted = fixed + sum(own.values())
    if predicted <= 0:
        return {key: Share(ns, 0, step_ns) for key, ns in _evenly(step_ns, works).items()}
    # Parts of the predicted step first, times after: neither can leave the range of floats then.
    fixed_part = fixed / predicted
    parts = {key: ns / predicted for key, ns in own.items()}
    weights = {
        key: round((fixed_part / len(parts) + part) * _WEIGHT_SCALE) for key, part in parts.items()
    }
    return {
        key: Share(
            device_ns=ns,
            marginal_ns=min(ns, round(parts[key] * step_ns)),
            alone_ns=max(ns, round((fixed_part + parts[key]) * step_ns)),
        )
        for key, ns in share_step(step_ns, weights).items()
    }


def _evenly(step_ns: int, works: Mapping[str, Work]) -> dict[str, int]:
    return share_step(step_ns, dict.fromkeys(works, 1))


@dataclass(frozen=True, slots=True)
class ModelErrors:
    """How far off the model was in the last steps, of their time. None before it said anything.

    median, p95   of |said − took| / took
    drift         the median of (said − took) / took: near zero after a fit; above, the steps have become faster than the
                  ones that it was fitted to, below, slower
    """

    median: float | None
    p95: float | None
    drift: float | None


@dataclass(frozen=True, slots=True)
class WorkModelStats:
    """version counts the fits. in_use: shares follow the model; else they go by tokens."""

    version: int
    in_use: bool
    errors: ModelErrors


class WorkModel:
    """Fits the coefficients to the last steps, now and then.

    Steps of the warm-up are kept for good: they cover every kind of step, which an hour of one
    user's traffic may not. Where the model turns out to be far off, shares go by tokens until a new fit is better.

    version   counts the fits; a share's method names it.
    """

    def __init__(self) -> None:
        self.coefficients = PLAIN
        self.version = 0
        self._anchors: list[tuple[float, ...]] = []
        self._steps: deque[tuple[float, ...]] = deque(maxlen=_STEPS_KEPT)
        self._errors: deque[float] = deque(maxlen=_STEPS_WATCHED)
        self._candidate = PLAIN
        self._observed = 0

    @property
    def fitted(self) -> bool:
        return self.coefficients is not PLAIN

    @property
    def method(self) -> str:
        """How a step's time is shared out at present: by this version of the model, or by tokens."""
        return f"work_model/{self.version}" if self.fitted else "tokens"

    def stats(self) -> WorkModelStats:
        return WorkModelStats(self.version, self.fitted, self.errors())

    def errors(self) -> ModelErrors:
        """Of the last steps, each by the coefficients that were there before it."""
        if not self._errors:
            return ModelErrors(None, None, None)
        errors = np.array(self._errors)
        median, p95 = np.quantile(np.abs(errors), [0.5, 0.95])
        return ModelErrors(float(median), float(p95), float(np.median(errors)))

    def observe(self, step_ns: int, works: Collection[Work], *, anchor: bool = False) -> None:
        """Learn from a step that took step_ns."""
        if step_ns <= 0:
            return  # the clock is too coarse for it; relative errors need a time
        features = _features(works)
        if self._candidate is not PLAIN and not anchor:
            self._errors.append(self._candidate.step_ns(features) / step_ns - 1.0)
        (self._anchors if anchor else self._steps).append((*features, float(step_ns)))
        self._observed += 1
        if self._observed % self._steps_between_fits == 0:
            self.fit()

    @property
    def _steps_between_fits(self) -> int:
        early = self._observed <= _STEPS_BETWEEN_LATER_FITS
        return _STEPS_BETWEEN_FITS if early else _STEPS_BETWEEN_LATER_FITS

    def fit(self) -> None:
        """Fit to what was observed; changes nothing while that is too little to tell the parts apart."""
        rows = np.array([*self._anchors, *self._steps]).reshape(-1, _FEATURES + 1)
        seen = (rows[:, 1:3] > 0).sum(axis=0)
        if len(rows) >= _STEPS_TO_FIT and seen.min() >= _STEPS_OF_A_KIND:
            self._candidate = fit(rows[:, :_FEATURES], rows[:, _FEATURES])
            self.version += 1
        self.coefficients = self._candidate if self._is_good_enough() else PLAIN

    def _is_good_enough(self) -> bool:
        median = self.errors().median
        if median is None or median <= _WORST_ERROR:
            return True
        logger.warning(
            "the work model is off by %.0f %% of the median step; shares go by tokens until it is better",
            100 * median,
        )
        self._errors.clear()  # the next fit is judged by itself
        return False


def _features(works: Collection[Work]) -> tuple[float, ...]:
    return (
        1.0,
        float(sum(work.prefill_tokens for work in works)),
        float(sum(work.decode_tokens for work in works)),
        float(sum(work.context_tokens for work in works)),
        float(sum(work.prefill_context_tokens for work in works)),
    )


def fit(features: Floats, step_ns: Floats) -> Coefficients:
    """Robust non-negative coefficients (Huber's loss on relative errors, reweighted least squares).

    features   [steps, 5]: one, prefill tokens, decode tokens, keys that answers read, keys that prompts read.
    """
    relative = features / step_ns[:, None]
    weights = np.ones(len(step_ns))
    solution = np.zeros(_FEATURES)
    for _ in range(_HUBER_ROUNDS):
        solution = _non_negative_least_squares(relative, weights)
        weights = _huber_weights(relative @ solution - 1.0)
    return Coefficients(*(float(value) for value in solution))


def _huber_weights(errors: Floats) -> Floats:
    sizes = np.abs(errors)
    spread = 1.4826 * float(np.median(sizes)) + 1e-9  # a normal's deviation, from its median
    weights: Floats = np.minimum(1.0, _HUBER_WIDTH * spread / np.maximum(sizes, 1e-12))
    return weights


def _non_negative_least_squares(relative: Floats, weights: Floats) -> Floats:
    """argmin ‖√weights·(relative·x − 1)‖ with x ≥ 0, exactly: five columns have 31 supports to try."""
    size = np.maximum(relative.max(axis=0), 1e-300)  # columns differ by orders of magnitude
    scaled = relative / size
    gram = scaled.T @ (scaled * weights[:, None])
    right = scaled.T @ weights
    everything, _, rank, _ = np.linalg.lstsq(gram, right, rcond=1e-12)
    if rank == _FEATURES and everything.min() >= 0:
        return np.asarray(everything / size)  # nothing is at its bound: no support does better
    best, best_loss = np.zeros(_FEATURES), 0.0
    for support in _SUPPORTS:
        part = np.linalg.lstsq(gram[np.ix_(support, support)], right[support], rcond=1e-12)[0]
        loss = -float(right[support] @ part)  # less the constant ‖√weights‖²
        # Smaller supports come first and stay unless a larger one is really better.
        if part.min() >= 0 and loss < best_loss - 1e-9 * weights.sum():
            best, best_loss = np.zeros(_FEATURES), loss
            best[support] = part
    unscaled: Floats = best / size
    return unscaled


_SUPPORTS = [
    list(some)
    for count in range(1, _FEATURES + 1)
    for some in combinations(range(_FEATURES), count)
]
