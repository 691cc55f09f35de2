"""What stands between a layer's products, on a CPU: one native call for what would be two to fifteen operators of torch.

    add_rms_norm          residual addition and root mean square norm
    rotate_and_cache      rotary embedding of queries and keys, keys and values into the paged cache
    silu_mul              the gate of a feed-forward block

Each rounds where the plain modules of serving/layers round. They need native.usable_on their tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serving.kernels import native
from serving.kernels.rows import with_whole_rows
from serving.layers.rotary import Angles

if TYPE_CHECKING:
    from serving.layers.attention import LayerCache


def add_rms_norm(
    hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """hidden + added, normed and times weight; and the sum itself, which is the next residual.

    hidden, added   [..., size]. Without added nothing is added, and the sum is hidden.
    """
    hidden = hidden.contiguous()
    normed = torch.empty_like(hidden)
    total = hidden if added is None else torch.empty_like(hidden)
    add_and_norm = native.function("add_rms_norm", "pppppiifii")
    assert add_and_norm is not None, "ask native.usable_on() before"
    size = hidden.shape[-1]
    added = None if added is None else added.contiguous()
    add_and_norm(
        hidden.data_ptr(),
        None if added is None else added.data_ptr(),
        weight.data_ptr(),
        total.data_ptr(),
        normed.data_ptr(),
        hidden.numel() // size,
        size,
        eps,
        native.DTYPES[hidden.dtype],
        torch.get_num_threads(),
    )
    return normed, total


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

    Returns the turned query. Rows that share a slot leave there anything, which is padding's use.
    """
    rows, heads, head_dim = query.shape
    query, key, value = (with_whole_rows(part) for part in (query, key, value))
    cosines, sines = (None, None) if angles is None else (part.contiguous() for part in angles)
    turned = torch.empty((rows, heads, head_dim), dtype=query.dtype)
    slots = slots.contiguous()
    write = native.function("rotate_and_cache", "p" * 11 + "i" * 10)
    assert write is not None, "ask native.usable_on() before"
    write(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        None if cosines is None else cosines.data_ptr(),
        None if sines is None else sines.data_ptr(),
        turned.data_ptr(),
        cache.keys.data_ptr(),
        cache.values.data_ptr(),
        None if cache.key_scales is None else cache.key_scales.data_ptr(),
        None if cache.value_scales is None else cache.value_scales.data_ptr(),
        slots.data_ptr(),
        query.stride(0),
        key.stride(0),
        value.stride(0),
        rows,
        heads,
        key.shape[1],
        head_dim,
        native.DTYPES[query.dtype],
        native.DTYPES[cache.keys.dtype],
        torch.get_num_threads(),
    )
    return turned


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of [rows, 2 · size] with the gate in front, as [rows, size]."""
    gate_up = gate_up.contiguous()
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    gated = gate_up.new_empty((rows, size))
    multiply = native.function("silu_mul", "ppiiii")
    assert multiply is not None, "ask native.usable_on() before"
    multiply(
        gate_up.data_ptr(),
        gated.data_ptr(),
        rows,
        size,
        native.DTYPES[gate_up.dtype],
        torch.get_num_threads(),
    )
    return gated
