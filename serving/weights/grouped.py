"""Weights that a GGUF file keeps as small codes in groups of 32 inputs, without widening them.

    GroupedCodes   codes with a scale and a minimum a group
    grouped        the codes of a stored tensor; None where it is kept in another way
    widen          what they stand for

For who wants the codes themselves: LoadedModel.grouped("layers.0.mlp.gate_up_proj") gives those of a module of the model,
merged as the module's matrix is, and reads the file only then. So a tensor in Q4_0 or Q4_1 needs no second rounding.
"""

from typing import NamedTuple

import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from serving.weights.gguf_header import StoredTensor

GROUP_INPUTS = 32


class GroupedCodes(NamedTuple):
    """A weight is code · scale + minimum.

    codes      [outputs, inputs]: uint8, 0 … 15 (Q4_0, Q4_1), or int8 (Q8_0)
    scales     fp16 [outputs, inputs / 32]
    minimums   fp16 [outputs, inputs / 32]; Q4_0's are −8 · scale, Q8_0's are zero
    """

    codes: Tensor
    scales: Tensor
    minimums: Tensor


def grouped(stored: StoredTensor) -> GroupedCodes | None:
    """Codes [outputs, inputs], in memory of their own."""
    if stored.kind not in _READERS or len(stored.shape) != 2:
        return None
    blocks = torch.from_numpy(stored.data.copy()).view(stored.shape[0], stored.shape[1] // 32, -1)
    return _READERS[stored.kind](blocks)


def widen(weight: GroupedCodes) -> Tensor:
    """fp32 [outputs, inputs]."""
    groups = weight.codes.view(*weight.scales.shape, GROUP_INPUTS).float()
    wide = groups * weight.scales.float()[..., None] + weight.minimums.float()[..., None]
    return wide.flatten(1)


def merged(parts: list[GroupedCodes | None]) -> GroupedCodes | None:
    """The matrices one below the other; None where one of them is kept in another way, or their codes differ in kind."""
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts) or len({part.codes.dtype for part in whole}) != 1:
        return None
    return GroupedCodes(*(torch.cat(tensors) for tensors in zip(*whole, strict=True)))


def _halves(blocks: Tensor, first: int) -> Tensor:
    """The fp16 number at byte `first` of each block."""
    return blocks[..., first : first + 2].contiguous().view(torch.float16)[..., 0]


def _four_bits(blocks: Tensor) -> Tensor:
    """16 bytes a block: the first 16 inputs in the low four bits, the others in the high ones."""
    return torch.cat((blocks & 15, blocks >> 4), dim=-1).flatten(1)


def _q4_0(blocks: Tensor) -> GroupedCodes:
    scales = _halves(blocks, 0)
    return GroupedCodes(_four_bits(blocks[..., 2:]), scales, scales * -8)


def _q4_1(blocks: Tensor) -> GroupedCodes:
    return GroupedCodes(_four_bits(blocks[..., 4:]), _halves(blocks, 0), _halves(blocks, 2))


def _q8_0(blocks: Tensor) -> GroupedCodes:
    scales = _halves(blocks, 0)
    codes = blocks[..., 2:].contiguous().view(torch.int8).flatten(1)
    return GroupedCodes(codes, scales, torch.zeros_like(scales))


_READERS = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q8_0: _q8_0,
}
