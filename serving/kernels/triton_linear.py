"""Products of few rows with a large weight on a GPU: what decoding does most of its time.

A few rows against a weight are as fast as the weight can be read, so the weight is read as it is stored, once, and
widened on the way. Four ways to store it, each with its product and a plain torch reference:

    plain    [outputs, inputs] in the activations' dtype
    int8     int8 [outputs, inputs] and one scale an output: w = code · scale
    fp8      float8_e4m3fn [outputs, inputs] and one scale an output
    int4     uint8 [outputs, inputs / 2] and a scale and a minimum for every 32 inputs of an output:
             w = code · scale + minimum with codes 0 … 15; input 2i is the low half of byte i, 2i + 1 the high half

Products accumulate in fp32. In which order a row's sums are taken depends on the weight's shape only: not on how many rows
there are, nor on the device.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# The arguments of kernels are Triton's, not Python's.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from serving.kernels.triton_jit import cdiv, interpreted, jit, next_power_of_2, tl

GROUP_INPUTS = 32  # of an int4 weight that share scale and minimum
FEW_ROWS = 128  # with more, the weight is better widened once and left to the library's product

_PROGRAMS = 128  # at least; 132 multiprocessors read one weight together
_SMALLEST_DOT = 16
# That one program computes. With 64, Hopper would multiply by other instructions, which add up in another order.
_MOST_ROWS = 32
_FEWEST_INPUTS = 512  # that a part of a split sum adds up
# That one turn of the loop reads of each of the weight's rows: as much as is under way without running out of registers.
_BYTES_OF_A_ROW = 256
_INT4_BYTES_OF_A_ROW = 128
_SUMMED = 1024  # numbers that one program of the sum over parts writes


@dataclass(frozen=True, slots=True)
class Cut:
    """How a product is cut into programs: `outs` outputs each, sums over the inputs in `parts` parts."""

    outs: int
    parts: int
    part_inputs: int
    tile_inputs: int


def cut_of(out_features: int, in_features: int, bytes_per_input: float) -> Cut:
    """The cut of a weight. It must not look at the rows, or an answer depended on who else is in the batch."""
    widest = max(GROUP_INPUTS, next_power_of_2(in_features))
    tile_bytes = _BYTES_OF_A_ROW if bytes_per_input >= 1 else _INT4_BYTES_OF_A_ROW
    tile_inputs = min(int(tile_bytes / bytes_per_input), widest)
    outs = 2 * _SMALLEST_DOT if out_features >= 64 * _PROGRAMS else _SMALLEST_DOT
    parts = 1
    while cdiv(out_features, outs) * parts < _PROGRAMS and (
        in_features >= 2 * parts * max(_FEWEST_INPUTS, tile_inputs)
    ):
        parts *= 2
    part_inputs = cdiv(cdiv(in_features, parts), tile_inputs) * tile_inputs
    return Cut(outs, cdiv(in_features, part_inputs), part_inputs, tile_inputs)


def plain_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows [n, inputs] · weightᵀ + bias, as [n, outputs] in rows' dtype, which is the weight's too.

    Raises ValueError where the shapes do not fit each other, as the three others do.
    """
    return _row_scaled(rows, weight, None, bias)


def int8_linear(rows: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Like plain_linear, with int8 codes [outputs, inputs] and scales [outputs]."""
    return _row_scaled(rows, codes, scales, bias)


def fp8_linear(rows: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Like plain_linear, with float8_e4m3fn codes [outputs, inputs] and scales [outputs]."""
    return _row_scaled(rows, codes, scales, bias)


def int4_linear(
    rows: Tensor, codes: Tensor, scales: Tensor, minimums: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Like plain_linear, with two codes in a byte [outputs, inputs / 2], scales and minimums [outputs, inputs / 32]."""
    out_features, in_features = codes.shape[0], 2 * codes.shape[1]
    _check(rows, in_features, {"codes": codes, "scales": scales, "minimums": minimums})
    wanted = (out_features, in_features // GROUP_INPUTS)
    if in_features % GROUP_INPUTS or scales.shape != wanted or minimums.shape != wanted:
        raise ValueError(
            f"scales {[*scales.shape]} and minimums {[*minimums.shape]} for {in_features} inputs; "
            f"expected {[*wanted]}, and inputs that {GROUP_INPUTS} divides"
        )
    cut = cut_of(out_features, in_features, 0.5)
    room = _room(rows, out_features, cut)
    _int4_product[_grid(rows, out_features, cut)](
        rows,
        codes,
        scales,
        minimums,
        bias,
        room,
        rows.shape[0],
        out_features,
        rows.stride(0),
        in_features=in_features,
        row_tile=_row_tile(rows),
        out_tile=cut.outs,
        byte_tile=cut.tile_inputs // 2,
        part_bytes=cut.part_inputs // 2,
        group_bytes=GROUP_INPUTS // 2,
        whole=cut.parts == 1,
        even=_is_even(out_features, in_features, cut),
        wide=interpreted(),
        num_warps=4,
        num_stages=4,
    )
    return room if cut.parts == 1 else _add_up(room, rows.dtype, None, bias)


def _row_scaled(rows: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    out_features, in_features = weight.shape
    _check(rows, in_features, {"weight": weight})
    if scales is not None and scales.shape != (out_features,):
        raise ValueError(f"scales {[*scales.shape]} for {out_features} outputs; expected one each")
    cut = cut_of(out_features, in_features, weight.element_size())
    room = _room(rows, out_features, cut)
    _product[_grid(rows, out_features, cut)](
        rows,
        weight,
        scales,
        bias,
        room,
        rows.shape[0],
        out_features,
        rows.stride(0),
        in_features=in_features,
        row_tile=_row_tile(rows),
        out_tile=cut.outs,
        in_tile=cut.tile_inputs,
        part_inputs=cut.part_inputs,
        whole=cut.parts == 1,
        even=_is_even(out_features, in_features, cut),
        wide=interpreted(),
        num_warps=4,
        num_stages=4,
    )
    return room if cut.parts == 1 else _add_up(room, rows.dtype, scales, bias)


def _check(rows: Tensor, in_features: int, parts: dict[str, Tensor]) -> None:
    if rows.dim() != 2 or rows.shape[1] != in_features or rows.stride(1) != 1:
        raise ValueError(
            f"rows {[*rows.shape]} with strides {[*rows.stride()]}; "
            f"expected [n, {in_features}], each row in one piece"
        )
    scattered = [name for name, tensor in parts.items() if not tensor.is_contiguous()]
    if scattered:
        raise ValueError(f"{' and '.join(scattered)}: not contiguous; call .contiguous() once")


def _room(rows: Tensor, out_features: int, cut: Cut) -> Tensor:
    """Where the products write: the result itself, or fp32 [parts, n, out] where sums come in parts."""
    if cut.parts == 1:
        return rows.new_empty((rows.shape[0], out_features))
    return rows.new_empty((cut.parts, rows.shape[0], out_features), dtype=torch.float32)


def _row_tile(rows: Tensor) -> int:
    return min(_MOST_ROWS, max(_SMALLEST_DOT, next_power_of_2(max(1, rows.shape[0]))))


def _grid(rows: Tensor, out_features: int, cut: Cut) -> tuple[int, int, int]:
    # Programs that read the same part of the weight follow each other, so that it comes from memory once.
    return max(1, cdiv(rows.shape[0], _row_tile(rows))), cdiv(out_features, cut.outs), cut.parts


def _is_even(out_features: int, in_features: int, cut: Cut) -> bool:
    """Whether every tile is full: then nothing has to be masked on the way."""
    return out_features % cut.outs == 0 and in_features == cut.parts * cut.part_inputs


def _add_up(sums: Tensor, dtype: torch.dtype, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    """The parts' sums one after the other, then scale and bias, rounded once."""
    parts, count, out_features = sums.shape
    added = sums.new_empty((count, out_features), dtype=dtype)
    _sum_of_parts[(max(1, cdiv(count * out_features, _SUMMED)),)](
        sums,
        scales,
        bias,
        added,
        count * out_features,
        out_features=out_features,
        parts=parts,
        tile=_SUMMED,
        num_warps=4,
    )
    return added


def plain_reference(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _reference(rows, weight.float(), None, bias)


def row_scaled_reference(
    rows: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None
) -> Tensor:
    """int8_linear and fp8_linear in plain torch."""
    return _reference(rows, codes.float(), scales, bias)


def int4_reference(
    rows: Tensor, codes: Tensor, scales: Tensor, minimums: Tensor, bias: Tensor | None = None
) -> Tensor:
    """int4_linear in plain torch: the weight is rounded to rows' dtype before the product."""
    apart = torch.stack((codes & 15, codes >> 4), dim=-1).float()
    grouped = apart.view(*scales.shape, GROUP_INPUTS)
    wide = grouped * scales.float()[..., None] + minimums.float()[..., None]
    return _reference(rows, wide.flatten(1).to(rows.dtype).float(), None, bias)


def _reference(rows: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    sums = functional.linear(rows.float(), weight)
    sums = sums if scales is None else sums * scales.float()
    return (sums if bias is None else sums + bias.float()).to(rows.dtype)


@jit()
def _write(
    sums,
    rows,
    outs,
    part,
    room_ptr,
    scales_ptr,
    bias_ptr,
    count,
    out_features,
    whole: tl.constexpr,
):
    """Sums [rows, outs]: where they are whole, times scales and plus biases if there are any; else as one part of many."""
    is_out = outs < out_features
    places = rows[:, None].to(tl.int64) * out_features + outs[None, :]
    is_there = (rows < count)[:, None] & is_out[None, :]
    if whole:
        if scales_ptr is not None:
            sums = sums * tl.load(scales_ptr + outs, mask=is_out, other=0.0).to(tl.float32)[None, :]
        if bias_ptr is not None:
            sums = sums + tl.load(bias_ptr + outs, mask=is_out, other=0.0).to(tl.float32)[None, :]
        tl.store(room_ptr + places, sums.to(room_ptr.dtype.element_ty), mask=is_there)
    else:
        behind = part.to(tl.int64) * count * out_features
        tl.store(room_ptr + behind + places, sums, mask=is_there)


@jit(any_value=("count",))
def _product(
    rows_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    room_ptr,
    count,
    out_features,
    row_stride,
    in_features: tl.constexpr,
    row_tile: tl.constexpr,
    out_tile: tl.constexpr,
    in_tile: tl.constexpr,
    part_inputs: tl.constexpr,
    whole: tl.constexpr,
    even: tl.constexpr,
    wide: tl.constexpr,
):
    """row_tile rows times out_tile of the weight's rows, over part_inputs inputs."""
    rows = tl.program_id(0) * row_tile + tl.arange(0, row_tile)
    outs = tl.program_id(1) * out_tile + tl.arange(0, out_tile)
    part = tl.program_id(2)
    is_row, is_out = rows < count, outs < out_features
    sums = tl.zeros([row_tile, out_tile], tl.float32)
    for start in range(0, part_inputs, in_tile):
        inputs = part * part_inputs + start + tl.arange(0, in_tile)
        is_input = inputs < in_features
        some = tl.load(
            rows_ptr + rows[:, None].to(tl.int64) * row_stride + inputs[None, :],
            mask=is_row[:, None] if even else is_row[:, None] & is_input[None, :],
            other=0.0,
        )
        places = weight_ptr + outs[:, None].to(tl.int64) * in_features + inputs[None, :]
        if even:
            weight = tl.load(places)
        else:
            weight = tl.load(places, mask=is_out[:, None] & is_input[None, :], other=0.0)
        # The interpreter holds bf16 as whole numbers and multiplies these: there the products are of fp32.
        if wide:
            some = some.to(tl.float32)
            weight = weight.to(tl.float32)
        else:
            weight = weight.to(some.dtype)
        sums = tl.dot(some, tl.trans(weight), sums, input_precision="ieee")
    _write(sums, rows, outs, part, room_ptr, scales_ptr, bias_ptr, count, out_features, whole)


@jit(any_value=("count",))
def _int4_product(
    rows_ptr,
    weight_ptr,
    scales_ptr,
    minimums_ptr,
    bias_ptr,
    room_ptr,
    count,
    out_features,
    row_stride,
    in_features: tl.constexpr,
    row_tile: tl.constexpr,
    out_tile: tl.constexpr,
    byte_tile: tl.constexpr,
    part_bytes: tl.constexpr,
    group_bytes: tl.constexpr,
    whole: tl.constexpr,
    even: tl.constexpr,
    wide: tl.constexpr,
):
    """Like _product; the even inputs of a group are the low halves of its bytes, the odd ones the high halves."""
    groups: tl.constexpr = byte_tile // group_bytes
    row_bytes: tl.constexpr = in_features // 2
    row_groups: tl.constexpr = row_bytes // group_bytes
    rows = tl.program_id(0) * row_tile + tl.arange(0, row_tile)
    outs = tl.program_id(1) * out_tile + tl.arange(0, out_tile)
    part = tl.program_id(2)
    is_row, is_out = rows < count, outs < out_features
    sums = tl.zeros([row_tile, out_tile], tl.float32)
    for start in range(0, part_bytes, byte_tile):
        first = part * part_bytes + start
        packed_at = first + tl.arange(0, byte_tile)
        inputs = 2 * first + tl.arange(0, 2 * byte_tile)
        grouped_at = first // group_bytes + tl.arange(0, groups)
        some = tl.load(
            rows_ptr + rows[:, None].to(tl.int64) * row_stride + inputs[None, :],
            mask=is_row[:, None] & (inputs < in_features)[None, :],
            other=0.0,
        )
        places = weight_ptr + outs[:, None].to(tl.int64) * row_bytes + packed_at[None, :]
        of_groups = outs[:, None].to(tl.int64) * row_groups + grouped_at[None, :]
        if even:
            packed = tl.load(places)
            scales = tl.load(scales_ptr + of_groups).to(tl.float32)
            minimums = tl.load(minimums_ptr + of_groups).to(tl.float32)
        else:
            is_byte = is_out[:, None] & (packed_at < row_bytes)[None, :]
            is_group = is_out[:, None] & (grouped_at < row_groups)[None, :]
            packed = tl.load(places, mask=is_byte, other=0)
            scales = tl.load(scales_ptr + of_groups, mask=is_group, other=0.0).to(tl.float32)
            minimums = tl.load(minimums_ptr + of_groups, mask=is_group, other=0.0).to(tl.float32)
        low = tl.reshape((packed & 0xF).to(tl.float32), [out_tile, groups, group_bytes])
        high = tl.reshape((packed >> 4).to(tl.float32), [out_tile, groups, group_bytes])
        low = tl.reshape(low * scales[:, :, None] + minimums[:, :, None], [out_tile, byte_tile])
        high = tl.reshape(high * scales[:, :, None] + minimums[:, :, None], [out_tile, byte_tile])
        low, high = low.to(rows_ptr.dtype.element_ty), high.to(rows_ptr.dtype.element_ty)
        if wide:
            some, low, high = some.to(tl.float32), low.to(tl.float32), high.to(tl.float32)
        evens, odds = tl.split(tl.reshape(some, [row_tile, byte_tile, 2]))
        sums = tl.dot(evens, tl.trans(low), sums, input_precision="ieee")
        sums = tl.dot(odds, tl.trans(high), sums, input_precision="ieee")
    _write(sums, rows, outs, part, room_ptr, None, bias_ptr, count, out_features, whole)


@jit(any_value=("numbers",))
def _sum_of_parts(
    sums_ptr,
    scales_ptr,
    bias_ptr,
    added_ptr,
    numbers,
    out_features: tl.constexpr,
    parts: tl.constexpr,
    tile: tl.constexpr,
):
    """Add the parts in their order: no number depends on which program was the first."""
    at = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    is_there = at < numbers
    total = tl.zeros([tile], tl.float32)
    for part in range(parts):
        total += tl.load(sums_ptr + part * numbers.to(tl.int64) + at, mask=is_there, other=0.0)
    outs = at % out_features
    if scales_ptr is not None:
        total = total * tl.load(scales_ptr + outs, mask=is_there, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        total = total + tl.load(bias_ptr + outs, mask=is_there, other=0.0).to(tl.float32)
    tl.store(added_ptr + at, total.to(added_ptr.dtype.element_ty), mask=is_there)
