"""Eight bits as a small float (e4m3: largest 448), one scale an output row: w ≈ code · scale.

fp8-dynamic rounds the activations too, each row with a scale of its own; fp8 leaves them as they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST_CODE = 448.0


class Fp8Weight(NamedTuple):
    """codes float8_e4m3fn [outputs, inputs]; scales fp32 [outputs]."""

    codes: Tensor
    scales: Tensor


def encode(weight: Tensor) -> Fp8Weight:
    """The nearest codes to weight [outputs, inputs]. Raises ValueError where a weight is no number."""
    if not weight.isfinite().all():
        raise ValueError("it holds weights that are not finite; the checkpoint is damaged")
    return encode_rows(weight)


def encode_rows(rows: Tensor) -> Fp8Weight:
    """Like encode, of anything: it does not look whether there are numbers, for which a GPU would be waited for."""
    wide = rows.float()
    scales = wide.abs().amax(dim=1) / _LARGEST_CODE
    codes = wide / torch.where(scales > 0, scales, 1)[:, None]
    return Fp8Weight(codes.clamp_(-_LARGEST_CODE, _LARGEST_CODE).to(torch.float8_e4m3fn), scales)


def decode(weight: Fp8Weight, dtype: torch.dtype) -> Tensor:
    """What the codes stand for, [outputs, inputs]."""
    return (weight.codes.float() * weight.scales[:, None]).to(dtype)


def rounded(rows: Tensor) -> Tensor:
    """Activations [rows, inputs] as they are after rounding, in rows' dtype."""
    return decode(encode_rows(rows), rows.dtype)
