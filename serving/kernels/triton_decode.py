"""Attention of decode rows over the paged cache on a GPU (split-KV, as in flash-decoding).

    paged_decode   two kernels: one attends to a split of a row's context, one merges the splits

A split is SPLIT_KEYS keys, counted from the context's begin: how a row's sums are ordered depends on the row's own
context and window, never on the batch, the table's width or the number of programs. Nothing here waits for the
device or looks at its numbers, so a launch can be captured in a CUDA graph.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# The arguments of kernels are Triton's, not Python's.
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serving.kernels.rows import with_whole_rows
from serving.kernels.triton_jit import cdiv, interpreted, jit, next_power_of_2, tl

if TYPE_CHECKING:
    from serving.layers.attention import LayerCache

SPLIT_KEYS = 128
TILE_KEYS = 64
_MERGED_SPLITS = 16  # that one turn of the merging loop reads
_PROGRAMS = 1024  # about as many as keep 132 multiprocessors busy
_NO_WINDOW = 2**30
_LOG2_E = math.log2(math.e)
_SMALLEST_DOT = 16  # rows and depth of tl.dot


def paged_decode(
    query: Tensor,
    cache: LayerCache,
    tables: Tensor,
    contexts: Tensor,
    window: int | None = None,
) -> Tensor:
    """Attend each row to its own context.

    query      [rows, heads, head_dim]; heads are a multiple of the cache's.
    tables     int32 [rows, max_blocks]: each row's blocks in order; what lies behind its context is never read.
    contexts   int32 [rows], each at least 1: keys that the row sees, its own included.
    window     a row sees at most its last `window` keys.

    Returns [rows, heads, head_dim] in query's dtype. Raises ValueError where the shapes do not fit each other.
    """
    _check(query, cache, tables, contexts)
    rows, heads, head_dim = query.shape
    kv_heads, block_tokens = cache.keys.shape[2], cache.keys.shape[1]
    splits = cdiv(tables.shape[1] * block_tokens, SPLIT_KEYS)
    query = with_whole_rows(query)
    partials = query.new_empty((rows, heads, splits, head_dim), dtype=torch.float32)
    maxima = query.new_empty((rows, heads, splits), dtype=torch.float32)
    totals = torch.empty_like(maxima)
    attended = torch.empty((rows, heads, head_dim), dtype=query.dtype, device=query.device)
    if rows == 0:
        return attended
    span = window or _NO_WINDOW
    programs = min(splits, max(1, _PROGRAMS // (rows * kv_heads)))
    padded_dim = max(_SMALLEST_DOT, next_power_of_2(head_dim))
    _attend_splits[(rows, kv_heads, programs)](
        query,
        cache.keys,
        cache.values,
        cache.key_scales,
        cache.value_scales,
        tables,
        contexts,
        partials,
        maxima,
        totals,
        _LOG2_E / math.sqrt(head_dim),
        span,
        query.stride(0),
        tables.stride(0),
        splits,
        programs,
        kv_heads=kv_heads,
        group=heads // kv_heads,
        group_rows=max(_SMALLEST_DOT, next_power_of_2(heads // kv_heads)),
        head_dim=head_dim,
        padded_dim=padded_dim,
        block_tokens=block_tokens,
        split_keys=SPLIT_KEYS,
        tile_keys=TILE_KEYS,
        wide=interpreted(),
        num_warps=4,
        num_stages=2,
    )
    _merge_splits[(rows, heads)](
        partials,
        maxima,
        totals,
        contexts,
        attended,
        span,
        splits,
        heads=heads,
        head_dim=head_dim,
        padded_dim=padded_dim,
        split_keys=SPLIT_KEYS,
        merged_splits=_MERGED_SPLITS,
        num_warps=4,
    )
    return attended


def _check(query: Tensor, cache: LayerCache, tables: Tensor, contexts: Tensor) -> None:
    rows, heads, _ = query.shape
    kv_heads = cache.keys.shape[2]
    parts = [part for part in cache if part is not None]
    wrong = [
        problem
        for problem, is_so in (
            (f"{heads} query heads over {kv_heads} key heads", heads % kv_heads != 0),
            ("a cache that is not contiguous", not all(part.is_contiguous() for part in parts)),
            (f"{tables.shape[0]} tables for {rows} rows", tables.shape[0] != rows),
            (f"{contexts.shape[0]} contexts for {rows} rows", contexts.shape[0] != rows),
            ("tables of a width of 0", tables.shape[1] == 0),
            (f"tables of {tables.dtype}; expected int32", tables.dtype != torch.int32),
            (f"contexts of {contexts.dtype}; expected int32", contexts.dtype != torch.int32),
        )
        if is_so
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


@jit(any_value=("window", "table_stride", "splits", "programs"))
def _attend_splits(
    query_ptr,
    keys_ptr,
    values_ptr,
    key_scales_ptr,
    value_scales_ptr,
    tables_ptr,
    contexts_ptr,
    partials_ptr,
    maxima_ptr,
    totals_ptr,
    score_scale,
    window,
    query_stride,
    table_stride,
    splits,
    programs,
    kv_heads: tl.constexpr,
    group: tl.constexpr,
    group_rows: tl.constexpr,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    block_tokens: tl.constexpr,
    split_keys: tl.constexpr,
    tile_keys: tl.constexpr,
    wide: tl.constexpr,
):
    """Every `programs`-th split of one row and key head: the heads that share the key head are the rows of the products."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    context = tl.load(contexts_ptr + row)
    first_key = tl.maximum(context - window, 0)
    last_split = (context + split_keys - 1) // split_keys

    members = tl.arange(0, group_rows)
    dims = tl.arange(0, padded_dim)
    is_dim = dims < head_dim
    heads = kv_head * group + members
    is_head = members < group
    query = tl.load(
        query_ptr + row.to(tl.int64) * query_stride + heads[:, None] * head_dim + dims[None, :],
        mask=is_head[:, None] & is_dim[None, :],
        other=0.0,
    )
    # The interpreter holds bf16 as whole numbers and multiplies these: there the products are of fp32.
    if wide:
        query = query.to(tl.float32)

    for split in range(first_key // split_keys + tl.program_id(2), last_split, programs):
        maximum = tl.full([group_rows], float("-inf"), tl.float32)
        total = tl.zeros([group_rows], tl.float32)
        attended = tl.zeros([group_rows, padded_dim], tl.float32)
        # Tiles before the window or behind the context are not entered, so every tile has a key to see.
        begin = tl.maximum(split * split_keys, first_key // tile_keys * tile_keys)
        end = tl.minimum((split + 1) * split_keys, context)
        for start in range(begin, end, tile_keys):
            positions = start + tl.arange(0, tile_keys)
            is_seen = (positions >= first_key) & (positions < context)
            blocks = tl.load(
                tables_ptr + row.to(tl.int64) * table_stride + positions // block_tokens,
                mask=is_seen,
                other=0,
            )
            slots = blocks.to(tl.int64) * block_tokens + positions % block_tokens
            places = (slots * kv_heads + kv_head)[:, None] * head_dim + dims[None, :]
            is_there = is_seen[:, None] & is_dim[None, :]
            keys = tl.load(keys_ptr + places, mask=is_there, other=0.0)
            values = tl.load(values_ptr + places, mask=is_there, other=0.0)
            if wide:
                keys = keys.to(tl.float32)
                values = values.to(tl.float32)
            else:
                keys = keys.to(query.dtype)
                values = values.to(query.dtype)
            scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * score_scale
            if key_scales_ptr is not None:
                scales = tl.load(key_scales_ptr + slots * kv_heads + kv_head, mask=is_seen, other=0)
                scores = scores * scales[None, :]
            scores = tl.where(is_seen[None, :], scores, float("-inf"))
            higher = tl.maximum(maximum, tl.max(scores, 1))
            shrink = tl.exp2(maximum - higher)
            weights = tl.exp2(scores - higher[:, None])
            total = total * shrink + tl.sum(weights, 1)
            if value_scales_ptr is not None:
                scales = tl.load(
                    value_scales_ptr + slots * kv_heads + kv_head, mask=is_seen, other=0
                )
                weights = weights * scales[None, :]
            attended = attended * shrink[:, None] + tl.dot(
                weights.to(values.dtype), values, input_precision="ieee"
            )
            maximum = higher
        parts = (row.to(tl.int64) * kv_heads * group + heads) * splits + split
        tl.store(maxima_ptr + parts, maximum, mask=is_head)
        tl.store(totals_ptr + parts, total, mask=is_head)
        tl.store(
            partials_ptr + parts[:, None] * head_dim + dims[None, :],
            attended,
            mask=is_head[:, None] & is_dim[None, :],
        )


@jit(any_value=("window", "splits"))
def _merge_splits(
    partials_ptr,
    maxima_ptr,
    totals_ptr,
    contexts_ptr,
    attended_ptr,
    window,
    splits,
    heads: tl.constexpr,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    split_keys: tl.constexpr,
    merged_splits: tl.constexpr,
):
    """One row and head: its splits' sums, weighted by their maxima."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    context = tl.load(contexts_ptr + row)
    first_split = tl.maximum(context - window, 0) // split_keys
    last_split = (context + split_keys - 1) // split_keys
    dims = tl.arange(0, padded_dim)
    is_dim = dims < head_dim
    first_part = (row.to(tl.int64) * heads + head) * splits

    # A sum of one number each, kept as a vector: the loop carries what it was given.
    maximum = tl.max(tl.full([merged_splits], float("-inf"), tl.float32), 0)
    total = tl.sum(tl.zeros([merged_splits], tl.float32), 0)
    attended = tl.zeros([padded_dim], tl.float32)
    for start in range(first_split, last_split, merged_splits):
        some = start + tl.arange(0, merged_splits)
        is_split = some < last_split
        maxima = tl.load(maxima_ptr + first_part + some, mask=is_split, other=float("-inf"))
        totals = tl.load(totals_ptr + first_part + some, mask=is_split, other=0.0)
        partials = tl.load(
            partials_ptr + (first_part + some)[:, None] * head_dim + dims[None, :],
            mask=is_split[:, None] & is_dim[None, :],
            other=0.0,
        )
        higher = tl.maximum(maximum, tl.max(maxima, 0))
        shrink = tl.exp2(maximum - higher)
        weights = tl.exp2(maxima - higher)
        total = total * shrink + tl.sum(totals * weights, 0)
        attended = attended * shrink + tl.sum(partials * weights[:, None], 0)
        maximum = higher
    tl.store(
        attended_ptr + (row.to(tl.int64) * heads + head) * head_dim + dims,
        (attended / total).to(attended_ptr.dtype.element_ty),
        mask=is_dim,
    )
