"""What stands between a layer's products, on a GPU: one launch for what would be two to ten.

    add_rms_norm          residual addition and root mean square norm
    norm_heads            the same norm head by head
    rotate_and_cache      rotary embedding of queries and keys, keys and values into the paged cache
    silu_mul              the gate of a feed-forward block

Each rounds where the plain modules of serving/layers round, so that an answer does not depend on which of them ran; beside
each stands its reference in plain torch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# The arguments of kernels are Triton's, not Python's.
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from serving.kernels.rows import with_whole_rows
from serving.kernels.triton_jit import cdiv, jit, next_power_of_2, tl
from serving.layers.attention import LayerCache, write
from serving.layers.rotary import Angles, rotate

_LARGEST_CODE = 127
_MULTIPLIED = 1024  # numbers that one program of silu_mul writes
_MANY_NUMBERS = 2048  # of a row, for which a program takes more threads


def add_rms_norm(
    hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """hidden + added, normed and times weight; and the sum itself, which is the next residual.

    hidden, added   [rows, size], contiguous. Without added nothing is added, and the sum is hidden.
    """
    rows, size = hidden.shape
    _check_contiguous(hidden=hidden, added=added)
    normed = torch.empty_like(hidden)
    total = hidden if added is None else torch.empty_like(hidden)
    if rows:
        _add_rms_norm[(rows,)](
            hidden,
            added,
            weight,
            total,
            normed,
            eps,
            size,
            per_row=1,
            size=size,
            padded_size=next_power_of_2(size),
            num_warps=8 if size > _MANY_NUMBERS else 4,
        )
    return normed, total


def add_rms_norm_reference(
    hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    total = hidden if added is None else hidden + added
    wide = total.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(hidden.dtype), total


def norm_heads(heads: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Each head of [rows, n, head_dim] normed and times weight [head_dim]; a part of a product is fine as it is."""
    rows, count, head_dim = heads.shape
    heads = with_whole_rows(heads)
    normed = torch.empty((rows, count, head_dim), dtype=heads.dtype, device=heads.device)
    if rows:
        _add_rms_norm[(rows * count,)](
            heads,
            None,
            weight,
            None,
            normed,
            eps,
            heads.stride(0),
            per_row=count,
            size=head_dim,
            padded_size=next_power_of_2(head_dim),
            num_warps=1,
        )
    return normed


def norm_heads_reference(heads: Tensor, weight: Tensor, eps: float) -> Tensor:
    return add_rms_norm_reference(heads, None, weight, eps)[0]


def rotate_and_cache(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: Angles | None,
    cache: LayerCache,
    slots: Tensor,
) -> Tensor:
    """Turn query and key by their rows' angles; write key and value to the cache, quantized where the cache is.

    query    [rows, heads, head_dim]; key, value [rows, kv_heads, head_dim]: parts of one product are fine as they are.
    angles   cosines and sines [rows, 1, head_dim] in query's dtype, as serving.layers.rotary.rotation gives them;
             None: nothing is turned.
    slots    int64 [rows]: block · block_tokens + offset.

    Returns the turned query. Rows that share a slot leave there what one of them wrote, which is padding's use.
    """
    rows, heads, head_dim = query.shape
    cosines, sines = (None, None) if angles is None else (part.contiguous() for part in angles)
    query, key, value = (with_whole_rows(part) for part in (query, key, value))
    turned = torch.empty((rows, heads, head_dim), dtype=query.dtype, device=query.device)
    if rows:
        _rotate_and_cache[(rows, heads + key.shape[1])](
            query,
            key,
            value,
            cosines,
            sines,
            turned,
            cache.keys,
            cache.values,
            cache.key_scales,
            cache.value_scales,
            slots,
            query.stride(0),
            key.stride(0),
            value.stride(0),
            heads=heads,
            kv_heads=key.shape[1],
            half_dim=head_dim // 2,
            padded_half=next_power_of_2(head_dim // 2),
            largest_code=_LARGEST_CODE,
            num_warps=1,
        )
    return turned


def rotate_and_cache_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: Angles | None,
    cache: LayerCache,
    slots: Tensor,
) -> Tensor:
    if angles is not None:
        query, key = rotate(query, *angles), rotate(key, *angles)
    write(key, value, cache, slots)
    return query


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of [rows, 2 · size] with the gate in front, as [rows, size]."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    _check_contiguous(gate_up=gate_up)
    gated = gate_up.new_empty((rows, size))
    if rows:
        _silu_mul[(rows, cdiv(size, _MULTIPLIED))](
            gate_up, gated, size=size, tile=_MULTIPLIED, num_warps=4
        )
    return gated


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _check_contiguous(**tensors: Tensor | None) -> None:
    scattered = [name for name, t in tensors.items() if t is not None and not t.is_contiguous()]
    if scattered:
        raise ValueError(f"{' and '.join(scattered)}: not contiguous; call .contiguous() before")


@jit()
def _add_rms_norm(
    hidden_ptr,
    added_ptr,
    weight_ptr,
    total_ptr,
    normed_ptr,
    eps,
    row_stride,
    per_row: tl.constexpr,
    size: tl.constexpr,
    padded_size: tl.constexpr,
):
    """`size` numbers, of which a row of hidden has `per_row` times as many; the other tensors have no gaps."""
    dtype: tl.constexpr = normed_ptr.dtype.element_ty
    columns = tl.arange(0, padded_size)
    is_column = columns < size
    which = tl.program_id(0).to(tl.int64)
    places = which * size + columns
    source = hidden_ptr + which // per_row * row_stride + which % per_row * size + columns
    wide = tl.load(source, mask=is_column, other=0.0).to(tl.float32)
    if added_ptr is not None:
        wide += tl.load(added_ptr + places, mask=is_column, other=0.0).to(tl.float32)
        total = wide.to(dtype)
        tl.store(total_ptr + places, total, mask=is_column)
        wide = total.to(tl.float32)
    mean = tl.sum(wide * wide, 0) / size
    normed = (wide * tl.rsqrt(mean + eps)).to(dtype).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(normed_ptr + places, (normed * weight).to(dtype), mask=is_column)


@jit()
def _write_head(
    first,
    second,
    blocks_ptr,
    scales_ptr,
    place,
    halves,
    is_half,
    half_dim: tl.constexpr,
    largest_code: tl.constexpr,
):
    """Store the halves of one head (fp32, rounded as the model's dtype has them) at a place of the cache."""
    if scales_ptr is not None:
        # What lies behind is_half is zero and no maximum.
        largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0))
        scale = largest / largest_code
        tl.store(scales_ptr + place, scale)
        divisor = tl.where(scale > 0, scale, 1.0)
        # 1.5·2²³: what is added to it and taken from it again is rounded to a whole number, ties to even.
        first = (first / divisor + 12582912.0) - 12582912.0
        second = (second / divisor + 12582912.0) - 12582912.0
    start = place * (2 * half_dim)
    dtype: tl.constexpr = blocks_ptr.dtype.element_ty
    tl.store(blocks_ptr + start + halves, first.to(dtype), mask=is_half)
    tl.store(blocks_ptr + start + half_dim + halves, second.to(dtype), mask=is_half)


@jit()
def _rotate_and_cache(
    query_ptr,
    key_ptr,
    value_ptr,
    cosines_ptr,
    sines_ptr,
    turned_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    slots_ptr,
    query_stride,
    key_stride,
    value_stride,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half_dim: tl.constexpr,
    padded_half: tl.constexpr,
    largest_code: tl.constexpr,
):
    """One head of one row: of the query, or of key and value."""
    dtype: tl.constexpr = turned_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    halves = tl.arange(0, padded_half)
    is_half = halves < half_dim
    if head < heads:
        source = query_ptr + row * query_stride + head * (2 * half_dim) + halves
    else:
        source = key_ptr + row * key_stride + (head - heads) * (2 * half_dim) + halves
    first = tl.load(source, mask=is_half, other=0.0).to(tl.float32)
    second = tl.load(source + half_dim, mask=is_half, other=0.0).to(tl.float32)
    if cosines_ptr is not None:
        # Both halves of a row's angles are the same.
        angles = row * (2 * half_dim) + halves
        cosines = tl.load(cosines_ptr + angles, mask=is_half, other=0.0).to(tl.float32)
        sines = tl.load(sines_ptr + angles, mask=is_half, other=0.0).to(tl.float32)
        # Each product and the sum are rounded, as plain torch does it.
        less = (second * sines).to(dtype).to(tl.float32)
        more = (first * sines).to(dtype).to(tl.float32)
        first = ((first * cosines).to(dtype).to(tl.float32) - less).to(dtype).to(tl.float32)
        second = ((second * cosines).to(dtype).to(tl.float32) + more).to(dtype).to(tl.float32)
    if head < heads:
        target = turned_ptr + (row * heads + head) * (2 * half_dim) + halves
        tl.store(target, first.to(dtype), mask=is_half)
        tl.store(target + half_dim, second.to(dtype), mask=is_half)
    else:
        place = tl.load(slots_ptr + row) * kv_heads + head - heads
        _write_head(
            first,
            second,
            keys_ptr,
            key_scales_ptr,
            place,
            halves,
            is_half,
            half_dim,
            largest_code,
        )
        source = value_ptr + row * value_stride + (head - heads) * (2 * half_dim) + halves
        _write_head(
            tl.load(source, mask=is_half, other=0.0).to(tl.float32),
            tl.load(source + half_dim, mask=is_half, other=0.0).to(tl.float32),
            values_ptr,
            value_scales_ptr,
            place,
            halves,
            is_half,
            half_dim,
            largest_code,
        )


@jit()
def _silu_mul(gate_up_ptr, gated_ptr, size: tl.constexpr, tile: tl.constexpr):
    """A tile of one row."""
    dtype: tl.constexpr = gated_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * tile + tl.arange(0, tile)
    is_column = columns < size
    places = gate_up_ptr + row * (2 * size) + columns
    gate = tl.load(places, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(places + size, mask=is_column, other=0.0).to(tl.float32)
    gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    tl.store(gated_ptr + row * size + columns, (gate * up).to(dtype), mask=is_column)
