"""Codes with one scale an output row: w ≈ code · scale. int8 and fp8 keep weights so."""

from typing import NamedTuple

import torch
from torch import Tensor


class ScaledRows(NamedTuple):
    """codes [outputs, inputs], int8 −127 … 127 or float8_e4m3fn; scales fp32 [outputs]."""

    codes: Tensor
    scales: Tensor


def decode(weight: ScaledRows, dtype: torch.dtype) -> Tensor:
    """What the codes stand for, [outputs, inputs]."""
    return (weight.codes.float() * weight.scales[:, None]).to(dtype)
