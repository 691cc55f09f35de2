"""A decoder's step on a CPU by native code, in eight calls a layer.

usable      whether this decoder's numbers are some that native code computes with
forward     what Decoder.forward computes
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from serving.kernels import fused_decoder, native, native_attention
from serving.kernels.fused_decoder import Operations
from serving.kernels.native_fused import add_rms_norm, rotate_and_cache, silu_mul
from serving.layers.attention import LayerCache, PagedBatch, attend
from serving.layers.rotary import Angles

if TYPE_CHECKING:
    from serving.models.decoder import Decoder


def usable(decoder: Decoder, caches: Sequence[LayerCache]) -> bool:
    weight = decoder.norm.weight
    return native.usable_on(weight) and all(native_attention.fits(cache) for cache in caches[:1])


def _norm_heads(heads: Tensor, weight: Tensor, eps: float) -> Tensor:
    return add_rms_norm(heads, None, weight, eps)[0]


def _product(linear: nn.Module, rows: Tensor) -> Tensor:
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
    query = rotate_and_cache(query, key, value, angles, cache, batch.slots)
    return attend(query, cache, batch, window=window)


forward = partial(
    fused_decoder.forward,
    Operations(
        add_rms_norm=add_rms_norm,
        norm_heads=_norm_heads,
        product=_product,
        silu_mul=silu_mul,
        attend=_attend,
    ),
)
