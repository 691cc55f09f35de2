"""Attention over the paged cache on a CPU, by serving/kernels/native/attention.c.

    usable, fits     whether native code can attend to this cache
    paged_decode     decode rows: all rows and heads in one call
    paged_span       the last rows of one context: a chunk of a prompt

A row gets the same, to the bit, from both, in every batch, in every chunk and on any number of threads. Beside them stand
paged_decode_reference and plain torch's attention in serving/layers/attention.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serving.kernels import native
from serving.kernels.rows import with_whole_rows

if TYPE_CHECKING:
    from serving.layers.attention import LayerCache

# MAX_DIM and MAX_QUERIES in attention.c
_LARGEST_HEAD_DIM = 256
_MOST_HEADS = 160


def usable(query: Tensor, cache: LayerCache) -> bool:
    return native.usable_on(query) and query.shape[1] <= _MOST_HEADS and fits(cache)


def fits(cache: LayerCache) -> bool:
    """Whether native code can read this cache, where there is native code."""
    return (
        cache.keys.is_contiguous()
        and cache.values.is_contiguous()
        and cache.keys.dtype in native.DTYPES
        and cache.keys.shape[-1] <= _LARGEST_HEAD_DIM
    )


def paged_decode(
    query: Tensor,
    cache: LayerCache,
    tables: Tensor,
    contexts: Tensor,
    window: int | None = None,
) -> Tensor:
    """Attend each row of query [rows, heads, head_dim] to its own context; tables, contexts as PagedBatch has them."""
    attended = torch.empty(query.shape, dtype=query.dtype)
    _attend(query, attended, cache, tables, contexts, 1, window)
    return attended


def paged_span(
    query: Tensor, cache: LayerCache, blocks: Tensor, context: int, window: int | None = None
) -> Tensor:
    """Attend the last len(query) rows of a context that lies in blocks, each to what is in front of it and itself."""
    attended = torch.empty(query.shape, dtype=query.dtype)
    contexts = torch.tensor([context], dtype=torch.int32)
    _attend(query, attended, cache, blocks[None], contexts, len(query), window)
    return attended


def _attend(
    query: Tensor,
    attended: Tensor,
    cache: LayerCache,
    tables: Tensor,
    contexts: Tensor,
    rows: int,
    window: int | None,
) -> None:
    heads, head_dim = query.shape[1:]
    block_tokens, kv_heads = cache.keys.shape[1:3]
    tables = tables.to(torch.int32).contiguous()
    contexts = contexts.to(torch.int32).contiguous()
    query = with_whole_rows(query)
    attend = native.function("paged_attention", "p" * 8 + "i" * 12)
    assert attend is not None, "ask usable() before"
    attend(
        query.data_ptr(),
        attended.data_ptr(),
        cache.keys.data_ptr(),
        cache.values.data_ptr(),
        None if cache.key_scales is None else cache.key_scales.data_ptr(),
        None if cache.value_scales is None else cache.value_scales.data_ptr(),
        tables.data_ptr(),
        contexts.data_ptr(),
        query.stride(0),
        len(contexts),
        rows,
        heads,
        kv_heads,
        head_dim,
        block_tokens,
        tables.shape[1],
        window or 0,
        native.DTYPES[query.dtype],
        native.DTYPES[cache.keys.dtype],
        torch.get_num_threads(),
    )
