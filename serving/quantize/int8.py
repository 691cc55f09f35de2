"""Eight bits a weight, one scale an output row, no zero point: w ≈ code · scale."""

from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST_CODE = 127  # −128 is not used, so that the range is the same on both sides


class Int8Weight(NamedTuple):
    """codes int8 [outputs, inputs], −127 … 127; scales fp32 [outputs]."""

    codes: Tensor
    scales: Tensor


def encode(weight: Tensor) -> Int8Weight:
    """The nearest codes to weight [outputs, inputs]. Raises ValueError where a weight is no number."""
    wide = weight.float()
    largest = wide.abs().amax(dim=1)
    if not largest.isfinite().all():
        raise ValueError("it holds weights that are not finite; the checkpoint is damaged")
    # A row of zeros keeps scale 0; dividing by 1 there gives it codes 0.
    scales = largest / _LARGEST_CODE
    codes = wide / torch.where(scales > 0, scales, 1)[:, None]
    return Int8Weight(codes.round_().clamp_(-_LARGEST_CODE, _LARGEST_CODE).to(torch.int8), scales)


def decode(weight: Int8Weight, dtype: torch.dtype) -> Tensor:
    """What the codes stand for, [outputs, inputs]."""
    return (weight.codes.float() * weight.scales[:, None]).to(dtype)
