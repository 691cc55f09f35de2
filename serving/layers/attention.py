"""Causal attention of rows over keys and values that lie in blocks.

    LayerCache    one layer's keys and values, in blocks
    Span          which rows of a step belong to one sequence, and where its context lies
    PagedBatch    a step's spans, and the slot that each row writes

One sequence at a time: what a sequence gets does not depend on who else is in the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class LayerCache(NamedTuple):
    """keys and values, each [blocks, block_tokens, kv_heads, head_dim]."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Rows first_row … first_row + rows of a step are the last `rows` tokens of a context of `context` tokens.

    blocks    int64 [ceil(context / block_tokens)], in the order of the sequence.
    mask      bool [rows, context], true where a row may look; None where the plain cases need none.
    """

    first_row: int
    rows: int
    context: int
    blocks: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """A step's rows. slots int64 [rows] is block · block_tokens + offset; rows behind the last span are padding."""

    slots: Tensor
    tables: Tensor
    contexts: Tensor
    spans: Sequence[Span]


def causal_mask(rows: int, context: int, device: torch.device) -> Tensor | None:
    """The mask of the last `rows` tokens of a context; None for one row (sees all) and for whole prompts."""
    if rows in (1, context):
        return None
    everything = torch.ones(rows, context, dtype=torch.bool, device=device)
    return everything.tril(diagonal=context - rows)


def paged_attention(
    query: Tensor, key: Tensor, value: Tensor, cache: LayerCache, batch: PagedBatch
) -> Tensor:
    """Write key and value [rows, kv_heads, head_dim] to the cache, then attend.

    Returns [rows, heads, head_dim] like query; padding rows are zero.
    """
    cache.keys.flatten(0, 1).index_copy_(0, batch.slots, key)
    cache.values.flatten(0, 1).index_copy_(0, batch.slots, value)
    attended = torch.zeros_like(query)
    for row, context in enumerate(batch.contexts.tolist()):
        blocks = -(-context // cache.keys.shape[1])
        span = Span(row, 1, context, batch.tables[row, :blocks].long(), None)
        attended[row : row + 1] = _attend(query[row : row + 1], cache, span)
    for span in batch.spans:
        rows = slice(span.first_row, span.first_row + span.rows)
        attended[rows] = _attend(query[rows], cache, span)
    return attended


def _attend(query: Tensor, cache: LayerCache, span: Span) -> Tensor:
    keys, values = _gather(cache.keys, span), _gather(cache.values, span)
    if span.rows == 1:
        return _attend_one_row(query, keys, values)
    attended = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=span.mask,
        is_causal=span.mask is None,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _attend_one_row(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The heads that share a key head stand as its rows: keys are read once, not once a head."""
    _, heads, head_dim = query.shape
    grouped = query.view(1, keys.shape[1], -1, head_dim)
    return scaled_dot_product_attention(grouped, keys, values).reshape(1, heads, head_dim)


def _gather(blocks: Tensor, span: Span) -> Tensor:
    """The span's context as [1, kv_heads, context, head_dim]."""
    context = blocks.index_select(0, span.blocks).flatten(0, 1)[: span.context]
    return context.transpose(0, 1)[None]
