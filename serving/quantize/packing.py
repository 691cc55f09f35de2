"""The orders in which serving/kernels/native/quantized_*.c read weights; see there for the why.

Sixteen output rows are a block and lie interleaved; what is missing of the last block is zeros.
"""

import torch
from torch import Tensor
from torch.nn import functional

from serving.quantize.int4 import Int4Weight, unpack_codes
from serving.quantize.scaled_rows import ScaledRows

_LANES = 16


def pack_int4(weight: Int4Weight) -> Tensor:
    """uint8, one dimension: a block's groups one behind the other, each its codes, scales and minimums."""
    codes = _blocks(unpack_codes(weight.codes))
    lanes = codes.view(len(codes), _LANES, -1, 4, 4, 2)  # block, lane, group, eight, pair, input
    # In a lane's four bytes stand the first inputs of the four pairs, then the second ones.
    ordered = lanes.permute(0, 2, 3, 1, 5, 4)  # block, group, eight, lane, input, pair
    return _with_scaling(ordered[..., 0::2] | (ordered[..., 1::2] << 4), weight)


def pack_int4_dynamic(weight: Int4Weight) -> Tensor:
    """Like pack_int4, but in a lane's four bytes stand four inputs in the low bits and the next four in the high ones."""
    codes = _blocks(unpack_codes(weight.codes))
    lanes = codes.view(len(codes), _LANES, -1, 4, 2, 4)  # block, lane, group, eight, half, input
    ordered = lanes.permute(0, 2, 3, 4, 1, 5)  # block, group, eight, half, lane, input
    return _with_scaling(ordered[:, :, :, 0] | (ordered[:, :, :, 1] << 4), weight)


def _with_scaling(codes: Tensor, weight: Int4Weight) -> Tensor:
    """Bytes [blocks, groups, …] with their groups' scales and minimums behind."""
    halves = [_by_group(part) for part in (weight.scales, weight.minimums)]
    return torch.cat((codes.flatten(2), *halves), dim=-1).flatten()


def _by_group(halves: Tensor) -> Tensor:
    """fp16 [outputs, groups] as bytes [blocks, groups, 32]."""
    return _blocks(halves).transpose(1, 2).contiguous().view(torch.uint8)


def pack_int8(weight: ScaledRows) -> Tensor:
    """uint8, one dimension: a block's codes as sign and magnitude, then its scales."""
    magnitudes = weight.codes.abs().view(torch.uint8)
    codes = _blocks(magnitudes | (weight.codes < 0).to(torch.uint8) << 7)
    # Lanes in quarters, because the unpacking instruction works in quarters of a vector.
    quarters = codes.view(len(codes), 4, 4, -1, 2, 2)  # block, quarter, lane, four, pair, input
    ordered = quarters.permute(0, 3, 1, 4, 2, 5)  # block, four, quarter, pair, lane, input
    return _with_scales(ordered, weight)


def pack_int8_dynamic(weight: ScaledRows) -> Tensor:
    """Like pack_int8, but codes are 128 more than what they stand for, and a lane's four bytes are four inputs."""
    codes = _blocks(weight.codes.view(torch.uint8) ^ 128)
    return _with_scales(codes.view(len(codes), _LANES, -1, 4).transpose(1, 2), weight)


def _with_scales(codes: Tensor, weight: ScaledRows) -> Tensor:
    """Bytes [blocks, …] with their blocks' scales behind."""
    return torch.cat((codes.flatten(1), _blocks(weight.scales).view(torch.uint8)), dim=1).flatten()


def _blocks(rows: Tensor) -> Tensor:
    """[outputs, …] as [blocks, 16, …]."""
    missing = -len(rows) % _LANES
    padding = [0, 0] * (rows.dim() - 1) + [0, missing]
    return functional.pad(rows, padding).reshape(-1, _LANES, *rows.shape[1:])
