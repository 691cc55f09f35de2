"""Eight bits a weight, one scale an output row, no zero point: w ≈ code · scale.

int8-dynamic and int4-dynamic round the activations to eight bits too: `rounded` says to what. One scale for a whole row
of them would cost ten times as much of the answers: a few inputs are far larger than all others.
"""

import torch
from torch import Tensor

from serving.quantize.scaled_rows import ScaledRows

ROUNDED_INPUTS = 32  # of a row's activations that share a scale
_LARGEST_CODE = 127  # −128 is not used, so that the range is the same on both sides


def encode(weight: Tensor) -> ScaledRows:
    """The nearest codes to weight [outputs, inputs]. Raises ValueError where a weight is no number."""
    wide = weight.float()
    largest = wide.abs().amax(dim=1)
    if not largest.isfinite().all():
        raise ValueError("it holds weights that are not finite; the checkpoint is damaged")
    # A row of zeros keeps scale 0; dividing by 1 there gives it codes 0.
    scales = largest / _LARGEST_CODE
    codes = wide / torch.where(scales > 0, scales, 1)[:, None]
    return ScaledRows(codes.round_().clamp_(-_LARGEST_CODE, _LARGEST_CODE).to(torch.int8), scales)


def rounded(rows: Tensor) -> Tensor:
    """Activations [rows, inputs] as they are after rounding to eight bits in groups of 32 inputs, in rows' dtype."""
    groups = rows.float().reshape(*rows.shape[:-1], -1, ROUNDED_INPUTS)
    scales = groups.abs().amax(dim=-1, keepdim=True) / _LARGEST_CODE
    codes = (groups / torch.where(scales == 0, 1, scales)).round()
    return (codes * scales).reshape(rows.shape).to(rows.dtype)
