"""Throws the dice on a CPU, a row at a time: looking at a result costs nothing there, so no vocabulary is sorted.

What comes out has the meaning that draw.py fixes.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine.request import SamplingParams
from serving.sampling.draw import Throw

_BLOCK_TOKENS = 64
_USUAL_BLOCKS = 256  # tokens above the best of so many blocks nearly always hold top_p's mass
_SUM_TOKENS = 128
_CHEAP_TO_SORT = 2_048
_SAMPLE = 256  # tokens whose median stands for all

Floats = NDArray[np.float32]


def draw_on_cpu(scores: Tensor, throw: Throw) -> int:
    """A token id for scores [vocab] in fp32."""
    greatest = scores.amax()
    if not math.isfinite(greatest):
        return int(scores.argmax())  # they are no numbers, and there is nothing to draw from
    behind = scores - greatest  # never above 0: no temperature overflows
    row = torch.softmax(behind.div_(throw.temperature), dim=-1)
    probabilities: Floats = row.numpy()
    floor = throw.sampling.min_p * float(row.amax())
    if throw.ranks:
        floor = _ranked_floor(row, floor, throw.sampling)
    if floor <= 0.0:
        return _draw_from_all(row, throw.dice)
    token_ids = np.flatnonzero(probabilities >= floor)
    cumulative = probabilities[token_ids].cumsum(dtype=np.float64)
    return int(token_ids[_reached(cumulative, throw.dice * cumulative[-1])])


def _draw_from_all(row: Tensor, dice: float) -> int:
    """Find a stretch of the vocabulary first, then the token in it: a sum is a fifth of a running sum."""
    stretches = len(row) // _SUM_TOKENS
    whole, rest = row[: stretches * _SUM_TOKENS], row[stretches * _SUM_TOKENS :]
    sums = torch.cat([whole.view(stretches, _SUM_TOKENS).sum(dim=-1), rest.sum(dim=-1)[None]])
    cumulative = sums.numpy().cumsum(dtype=np.float64)
    target = dice * cumulative[-1]
    stretch = _reached(cumulative, target)
    first = stretch * _SUM_TOKENS
    inside = row[first : first + _SUM_TOKENS].numpy().cumsum(dtype=np.float64)
    return first + _reached(inside, target - (cumulative[stretch] - float(sums[stretch])))


def _reached(cumulative: NDArray[np.float64], target: float) -> int:
    """The first place where a running sum passes target; at most the last place where it grows, so that rounding
    never hits a token that can't be."""
    last = np.searchsorted(cumulative, cumulative[-1], side="left")
    return int(min(np.searchsorted(cumulative, target, side="right"), last))


def _ranked_floor(row: Tensor, floor: float, sampling: SamplingParams) -> float:
    """floor, raised by top_k and top_p."""
    probabilities: Floats = row.numpy()
    usual = _usually_enough(row)
    if 0 < sampling.top_k < len(probabilities):
        floor = max(floor, _top_k_floor(probabilities, usual, sampling.top_k))
    if sampling.top_p >= 1.0:
        return floor
    if floor <= 0.0:
        return _nucleus_floor(probabilities, usual, sampling.top_p)
    kept = probabilities[probabilities >= floor]
    return _nucleus_floor(kept, usual, sampling.top_p * float(kept.sum(dtype=np.float64)))


def _usually_enough(row: Tensor) -> float:
    """A probability that a few hundred tokens have; 0.0, which all have, in a small vocabulary.

    Each block's best is a token, so the least of some blocks' bests is a floor that at least as many tokens reach.
    This takes a fifth of picking out as many most probable tokens.
    """
    blocks = len(row) // _BLOCK_TOKENS
    if blocks <= _USUAL_BLOCKS:
        return 0.0
    best = row[: blocks * _BLOCK_TOKENS].view(blocks, _BLOCK_TOKENS).amax(dim=-1).numpy()
    return float(np.partition(best, -_USUAL_BLOCKS)[-_USUAL_BLOCKS])


def _top_k_floor(probabilities: Floats, usual: float, top_k: int) -> float:
    likely = probabilities[probabilities >= usual]
    among = likely if len(likely) >= top_k else probabilities
    return float(np.partition(among, -top_k)[-top_k])


def _nucleus_floor(probabilities: Floats, pivot: float, mass: float) -> float:
    """The probability of the last token that it takes to reach mass, beginning with the most probable ones.

    Halves where it lies, as quickselect does, until what is left is cheap to sort.
    """
    while True:
        before = len(probabilities)
        high = probabilities[probabilities >= pivot]
        reached = float(high.sum(dtype=np.float64))
        if reached >= mass:
            probabilities = high
        else:
            probabilities, mass = probabilities[probabilities < pivot], mass - reached
        if len(probabilities) <= _CHEAP_TO_SORT or len(probabilities) == before:
            break
        pivot = float(np.median(probabilities[:: len(probabilities) // _SAMPLE]))
    if not len(probabilities):  # rounding: all together fall short of mass by a hair
        return float(high.min())
    falling = np.sort(probabilities)[::-1]
    last = np.searchsorted(falling.cumsum(dtype=np.float64), mass, side="left")
    return float(falling[min(int(last), len(falling) - 1)])
