"""Four bits a weight in groups of 32 inputs, with a scale and a minimum a group: w ≈ code · scale + minimum.

That is GGUF's Q4_1, and Q4_0 is the case minimum = −8 · scale: tensors that come in them keep their codes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

GROUP_INPUTS = 32
_LARGEST_CODE = 15
_FP16_LARGEST = 65504.0
# How much of a group's range the codes span. Less than all of it rounds the outermost weights worse and all
# others better; which is best differs from group to group.
_SPANS = (1.0, 0.95, 0.9, 0.85, 0.8)
_ROWS_AT_ONCE = 4096  # bounds what encoding a vocabulary takes


class Int4Weight(NamedTuple):
    """codes uint8 [outputs, inputs / 2]: input 2i in the low four bits, input 2i + 1 in the high ones.
    scales, minimums fp16 [outputs, inputs / 32]."""

    codes: Tensor
    scales: Tensor
    minimums: Tensor


def encode(weight: Tensor) -> Int4Weight:
    """Codes for weight [outputs, inputs] that keep the squared error of each group small.

    Raises ValueError where inputs are no multiple of 32, or a weight is not finite or beyond fp16.
    """
    if weight.shape[1] % GROUP_INPUTS:
        raise ValueError(
            f"it has {weight.shape[1]} inputs; int4 needs a multiple of {GROUP_INPUTS}"
        )
    parts = [_encode_rows(rows.float()) for rows in torch.split(weight, _ROWS_AT_ONCE)]
    return Int4Weight(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _encode_rows(wide: Tensor) -> Int4Weight:
    groups = wide.reshape(len(wide), -1, GROUP_INPUTS)
    # Also false for what is no number.
    if not bool((groups.abs() <= _FP16_LARGEST).all()):
        raise ValueError(
            f"it holds weights that are not finite or beyond ±{_FP16_LARGEST:.0f}; int4 keeps fp16 scales"
        )
    low, high = groups.aminmax(dim=-1)
    best = _spanned(groups, low, high, _SPANS[0])
    for span in _SPANS[1:]:
        best = _better(best, _spanned(groups, low, high, span))
    _, codes, scales, minimums = best
    return Int4Weight(pack_codes(codes.flatten(1)), scales, minimums)


_Attempt = tuple[Tensor, Tensor, Tensor, Tensor]  # squared error a group, codes, scales, minimums


def _spanned(groups: Tensor, low: Tensor, high: Tensor, span: float) -> _Attempt:
    """Codes over the middle `span` of the groups' ranges. Scales are rounded first: codes then fit what is kept."""
    cut = (high - low) * (1 - span) / 2
    scales = ((high - low) * span / _LARGEST_CODE).half()
    minimums = (low + cut).half()
    steps = (groups - minimums[..., None]) / torch.where(scales > 0, scales, 1)[..., None]
    codes = steps.round_().clamp_(0, _LARGEST_CODE)
    error = (codes * scales[..., None] + minimums[..., None] - groups).square_().sum(-1)
    return error, codes.to(torch.uint8), scales, minimums


def _better(one: _Attempt, other: _Attempt) -> _Attempt:
    keep = one[0] <= other[0]
    error, codes, scales, minimums = (
        torch.where(keep[..., None] if a.dim() == 3 else keep, a, b)
        for a, b in zip(one, other, strict=True)
    )
    return error, codes, scales, minimums


def kept(codes: Tensor, scales: Tensor, minimums: Tensor) -> Int4Weight | None:
    """A weight whose codes, uint8 [outputs, inputs], came with it; None where they are of more than four bits."""
    if codes.dtype != torch.uint8:
        return None
    return Int4Weight(pack_codes(codes), scales, minimums)


def pack_codes(codes: Tensor) -> Tensor:
    """Two neighbouring codes uint8 [outputs, inputs] in a byte: [outputs, inputs / 2]."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_codes(packed: Tensor) -> Tensor:
    """What pack_codes took: codes 0 … 15, uint8 [outputs, inputs]."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def decode(weight: Int4Weight, dtype: torch.dtype) -> Tensor:
    """What the codes stand for, [outputs, inputs]."""
    codes = unpack_codes(weight.codes).view(*weight.scales.shape, GROUP_INPUTS).float()
    wide = codes * weight.scales.float()[..., None] + weight.minimums.float()[..., None]
    return wide.flatten(1).to(dtype)
