"""A decoder's step on a GPU by the fused kernels, in a third of the launches.

forward   what Decoder.forward computes
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from serving.kernels import fused_decoder
from serving.kernels.fused_decoder import Operations
from serving.kernels.triton_decode import paged_decode
from serving.kernels.triton_fused import add_rms_norm, norm_heads, rotate_and_cache, silu_mul
from serving.kernels.triton_linear import plain_linear
from serving.layers.attention import LayerCache, PagedBatch, paged_attention
from serving.layers.parallel import Summed, added_up
from serving.layers.rotary import Angles, rotate

# Up to so many rows a weight is read by our kernel, whose sums do not depend on how many rows there are; with more,
# the library's product is the faster one.
_ROWS_OF_OUR_PRODUCT = 32


def _product(linear: nn.Module, rows: Tensor) -> Tensor:
    """Of a plain weight; a quantized module chooses its kernel itself."""
    if isinstance(linear, Summed):
        return added_up(_product(linear.part, rows))
    if isinstance(linear, nn.Linear) and len(rows) <= _ROWS_OF_OUR_PRODUCT:
        return plain_linear(rows, linear.weight, linear.bias)
    product: Tensor = linear(rows)
    return product


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: Angles | None,
    cache: LayerCache,
    batch: PagedBatch,
    window: int | None,
) -> Tensor:
    if len(batch.contexts) == len(query):
        query = rotate_and_cache(query, key, value, angles, cache, batch.slots)
        return paged_decode(query, cache, batch.tables, batch.contexts, window)
    if angles is not None:  # prompts are among the rows
        query, key = rotate(query, *angles), rotate(key, *angles)
    return paged_attention(query, key, value, cache, batch, window=window)


forward = partial(
    fused_decoder.forward,
    Operations(
        add_rms_norm=add_rms_norm,
        norm_heads=norm_heads,
        product=_product,
        silu_mul=silu_mul,
        attend=_attend,
    ),
)
