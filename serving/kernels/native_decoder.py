"""A decoder's step on a CPU with fused native calls: the same roundings as the plain modules, in eight calls a layer.

    usable      whether this decoder's numbers are some that native code computes with
    forward     what Decoder.forward computes

A layer's plain modules call some forty operators of torch beside its four products; for one row of a small model these
take longer than the products.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from serving.kernels import native, native_attention
from serving.kernels.native_fused import add_rms_norm, rotate_and_cache, silu_mul
from serving.layers.attention import LayerCache, PagedBatch, attend
from serving.layers.rotary import rotation

if TYPE_CHECKING:
    from serving.models.decoder import Angles, Attention, Decoder, Layer


def usable(decoder: Decoder, caches: Sequence[LayerCache]) -> bool:
    weight = decoder.norm.weight
    return native.usable_on(weight) and all(native_attention.fits(cache) for cache in caches[:1])


def forward(
    decoder: Decoder,
    token_ids: Tensor,
    positions: Tensor,
    caches: Sequence[LayerCache],
    batch: PagedBatch,
) -> Tensor:
    """Hidden rows [rows, hidden_size] of token_ids and positions [rows]; fills the caches, one a layer."""
    residual: Tensor = decoder.embed_tokens(token_ids)
    factor = decoder.config.rope.attention_factor
    angles = rotation(positions, decoder.inverse_frequencies, decoder.dtype, factor)
    eps = decoder.config.rms_norm_eps
    added: Tensor | None = None
    for layer, cache in zip(cast("Iterable[Layer]", decoder.layers), caches, strict=True):
        hidden, residual = add_rms_norm(residual, added, layer.input_layernorm.weight, eps)
        added = _attention(layer.self_attn, hidden, angles, cache, batch, eps)
        weight = layer.post_attention_layernorm.weight
        hidden, residual = add_rms_norm(residual, added, weight, eps)
        added = layer.mlp.down_proj(silu_mul(layer.mlp.gate_up_proj(hidden)))
    return add_rms_norm(residual, added, decoder.norm.weight, eps)[0]


def _attention(
    attention: Attention,
    hidden: Tensor,
    angles: Angles,
    cache: LayerCache,
    batch: PagedBatch,
    eps: float,
) -> Tensor:
    query, key, value = (
        part.view(len(hidden), -1, attention.head_dim)
        for part in torch.split(attention.qkv_proj(hidden), attention.sizes, dim=-1)
    )
    if attention.q_norm is not None and attention.k_norm is not None:
        query = add_rms_norm(query, None, attention.q_norm.weight, eps)[0]
        key = add_rms_norm(key, None, attention.k_norm.weight, eps)[0]
    turned_by = angles if attention.rotated else None
    query = rotate_and_cache(query, key, value, turned_by, cache, batch.slots)
    attended = attend(query, cache, batch, window=attention.window)
    projected: Tensor = attention.o_proj(attended.flatten(1))
    return projected
