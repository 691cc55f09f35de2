"""Causal attention of rows over keys and values that lie in blocks.

    LayerCache       one layer's keys and values, in blocks
    PagedBatch       a step's rows: decode rows in front, then spans (chunks of prompts), then padding
    paged_attention  writes the rows' keys and values, then attends
    write, attend    the two halves of it

What a row gets depends on its own context only, not on who else is in the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from serving.kernels import native_attention

_LARGEST_CODE = 127
_LARGEST_FP8 = 448.0


class LayerCache(NamedTuple):
    """keys, values [blocks, block_tokens, kv_heads, head_dim] in the cache's dtype: the model's, int8 or float8_e4m3fn.

    key_scales, value_scales   fp32 [blocks, block_tokens, kv_heads], for int8 only: one scale a token and head.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None


@dataclass(frozen=True)
class Span:
    """Rows first_row … first_row + rows of a step are the last `rows` tokens of a context of `context` tokens.

    blocks          int64 [ceil(context / block_tokens)], in the order of the sequence.
    prompt_tokens   how long the prompt is that the rows belong to; rows behind its end are an answer's.
    """

    first_row: int
    rows: int
    context: int
    blocks: Tensor
    prompt_tokens: int = 0

    @cached_property
    def mask(self) -> Tensor | None:
        """bool [rows, context], true where a row may look; None for one row (sees all) and for whole prompts.

        Made when a layer asks for it, and kept for the others: native code needs none. On a GPU only its kind, which
        flash attention computes without one: heads that share keys would else be attended to number by number.
        """
        if self.rows in (1, self.context):
            return None
        if self.blocks.is_cuda:
            # It brings the compiler along, which takes seconds.
            from torch.nn.attention.bias import causal_lower_right

            return causal_lower_right(self.rows, self.context)
        shape = (self.rows, self.context)
        everything = torch.ones(shape, dtype=torch.bool, device=self.blocks.device)
        return everything.tril(diagonal=self.context - self.rows)


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """A step's rows. The first len(contexts) are decode rows: each attends by itself. Behind them lie the spans' rows,
    behind these padding, which attends to nothing and comes out as zeros.

    slots      int64 [rows]: block · block_tokens + offset, where each row's key and value go. Padding writes to a
               scratch block.
    tables     int32 [decode rows, max_blocks]: the blocks of each decode row's context in order; what lies behind is
               never read.
    contexts   int32 [decode rows]: keys that the row sees, its own included; at least 1.
    """

    slots: Tensor
    tables: Tensor
    contexts: Tensor
    spans: Sequence[Span]


def paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: LayerCache,
    batch: PagedBatch,
    *,
    window: int | None = None,
) -> Tensor:
    """Write key and value [rows, kv_heads, head_dim] to the cache, quantized where the cache is; then attend.

    window   a row sees at most its last `window` keys.

    Returns [rows, heads, head_dim] like query; padding rows are zero.
    """
    write(key, value, cache, batch.slots)
    return attend(query, cache, batch, window=window)


def attend(
    query: Tensor, cache: LayerCache, batch: PagedBatch, *, window: int | None = None
) -> Tensor:
    """Each row over its own context, which the cache holds. As paged_attention returns it."""
    decodes = len(batch.contexts)
    if decodes == len(query):
        return _decode(query, cache, batch, window)
    attended = torch.zeros_like(query)
    if decodes:
        attended[:decodes] = _decode(query[:decodes], cache, batch, window)
    for span in batch.spans:
        rows = slice(span.first_row, span.first_row + span.rows)
        attended[rows] = _attend(query[rows], cache, span, window)
    return attended


def write(key: Tensor, value: Tensor, cache: LayerCache, slots: Tensor) -> None:
    """Put key and value [rows, kv_heads, head_dim] into slots int64 [rows] of the cache, quantized where it is."""
    _write(key, cache.keys, cache.key_scales, slots)
    _write(value, cache.values, cache.value_scales, slots)


def _write(heads: Tensor, blocks: Tensor, scales: Tensor | None, slots: Tensor) -> None:
    if blocks.dtype == torch.float8_e4m3fn:
        # Beyond what it holds torch makes a NaN of a key, and that of every answer which looks at it.
        heads = heads.clamp(-_LARGEST_FP8, _LARGEST_FP8)
    codes = heads.to(blocks.dtype)
    if scales is not None:
        new_scales = heads.float().abs().amax(-1) / _LARGEST_CODE
        divisors = torch.where(new_scales > 0, new_scales, 1)[..., None]
        codes = (heads.float() / divisors).round().to(torch.int8)
        scales.flatten(0, 1).index_copy_(0, slots, new_scales)
    # Floats of one byte can be indexed in few builds of torch; their bytes can in all.
    narrow = torch.uint8 if blocks.element_size() == 1 else blocks.dtype
    blocks.view(narrow).flatten(0, 1).index_copy_(0, slots, codes.view(narrow))


def _decode(query: Tensor, cache: LayerCache, batch: PagedBatch, window: int | None) -> Tensor:
    if query.is_cuda:
        from serving.kernels.triton_decode import paged_decode  # takes seconds, and needs a GPU

        return paged_decode(query, cache, batch.tables, batch.contexts, window)
    if native_attention.usable(query, cache):
        return native_attention.paged_decode(query, cache, batch.tables, batch.contexts, window)
    return paged_decode_reference(query, cache, batch.tables, batch.contexts, window)


def paged_decode_reference(
    query: Tensor, cache: LayerCache, tables: Tensor, contexts: Tensor, window: int | None = None
) -> Tensor:
    """Attend each row to its own context, one after the other. Arguments as PagedBatch has them."""
    attended = torch.empty_like(query)
    for row, context in enumerate(contexts.tolist()):
        first = 0 if window is None else max(0, context - window)
        keys, values = _gather(cache, tables[row], first, context, query.dtype)
        attended[row] = _attend_one_row(query[row], keys, values)
    return attended


def _attend_one_row(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The heads that share a key head stand as its rows: keys are read once, not once a head."""
    grouped = query.view(1, keys.shape[1], -1, query.shape[-1])
    return scaled_dot_product_attention(grouped, keys, values).view_as(query)


def _attend(query: Tensor, cache: LayerCache, span: Span, window: int | None) -> Tensor:
    if native_attention.usable(query, cache):
        return native_attention.paged_span(query, cache, span.blocks, span.context, window)
    return span_reference(query, cache, span, window)


def span_reference(
    query: Tensor, cache: LayerCache, span: Span, window: int | None = None
) -> Tensor:
    """The rows of one span over its context, which is gathered before."""
    first = 0 if window is None else max(0, span.context - span.rows + 1 - window)
    keys, values = _gather(cache, span.blocks, first, span.context, query.dtype)
    mask = span.mask
    if window is not None and span.context > window:
        mask = _window_mask(span, first, window)
    attended = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None and span.rows > 1,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _window_mask(span: Span, first: int, window: int) -> Tensor:
    """bool [rows, context - first]: from its own key each row looks back to the window's end."""
    device = span.blocks.device
    own = torch.arange(span.context - span.rows, span.context, device=device)[:, None]
    keys = torch.arange(first, span.context, device=device)
    return (keys <= own) & (keys > own - window)


def _gather(
    cache: LayerCache, table: Tensor, first: int, end: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and values first … end of a sequence, each [1, kv_heads, end - first, head_dim] in dtype."""
    block_tokens = cache.keys.shape[1]
    blocks = table[first // block_tokens : -(-end // block_tokens)]
    skipped = first % block_tokens
    wanted = slice(skipped, skipped + end - first)
    return (
        _gathered(cache.keys, cache.key_scales, blocks, wanted, dtype),
        _gathered(cache.values, cache.value_scales, blocks, wanted, dtype),
    )


def _gathered(
    codes: Tensor, scales: Tensor | None, blocks: Tensor, wanted: slice, dtype: torch.dtype
) -> Tensor:
    narrow = torch.uint8 if codes.element_size() == 1 else codes.dtype
    taken = codes.view(narrow).index_select(0, blocks).view(codes.dtype).flatten(0, 1)[wanted]
    if scales is not None:
        factors = scales.index_select(0, blocks).flatten(0, 1)[wanted]
        taken = taken.float() * factors[..., None]
    return taken.to(dtype).transpose(0, 1)[None]
