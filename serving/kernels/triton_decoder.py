"""A decoder's step on a GPU with the fused kernels: the same roundings as the plain modules, in a third of the launches.

    forward   what Decoder.forward computes

A layer's plain modules launch some forty small kernels beside its four products; for a model of a billion weights they
take longer than the products. How Decoder.forward uses it:

    if usable_on(self.embed_tokens.weight):
        return triton_decoder.forward(self, token_ids, positions, caches, batch)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from serving.kernels.triton_decode import paged_decode
from serving.kernels.triton_fused import add_rms_norm, norm_heads, rotate_and_cache, silu_mul
from serving.kernels.triton_linear import plain_linear
from serving.layers.attention import LayerCache, PagedBatch, paged_attention
from serving.layers.rotary import rotate, rotation

if TYPE_CHECKING:
    from serving.models.decoder import Attention, Decoder, Layer

# Up to so many rows a weight is read by our kernel, whose sums do not depend on how many rows there are; with more,
# the library's product is the faster one.
_ROWS_OF_OUR_PRODUCT = 32

Angles = tuple[Tensor, Tensor]


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
    for layer, cache in zip(_layers(decoder), caches, strict=True):
        hidden, residual = add_rms_norm(residual, added, layer.input_layernorm.weight, eps)
        added = _attention(layer.self_attn, hidden, angles, cache, batch, eps)
        weight = layer.post_attention_layernorm.weight
        hidden, residual = add_rms_norm(residual, added, weight, eps)
        gated = silu_mul(_product(layer.mlp.gate_up_proj, hidden))
        added = _product(layer.mlp.down_proj, gated)
    return add_rms_norm(residual, added, decoder.norm.weight, eps)[0]


def _layers(decoder: Decoder) -> Iterable[Layer]:
    return cast("Iterable[Layer]", decoder.layers)


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
        for part in torch.split(_product(attention.qkv_proj, hidden), attention.sizes, dim=-1)
    )
    if attention.q_norm is not None and attention.k_norm is not None:
        query = norm_heads(query, attention.q_norm.weight, eps)
        key = norm_heads(key, attention.k_norm.weight, eps)
    attended = _attended(attention, query, key, value, angles, cache, batch)
    return _product(attention.o_proj, attended.flatten(1))


def _attended(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    angles: Angles,
    cache: LayerCache,
    batch: PagedBatch,
) -> Tensor:
    if len(batch.contexts) < len(query):  # prompts are among the rows
        if attention.rotated:
            query, key = rotate(query, *angles), rotate(key, *angles)
        return paged_attention(query, key, value, cache, batch, window=attention.window)
    if not attention.rotated:
        angles = torch.ones_like(angles[0]), torch.zeros_like(angles[1])
    query = rotate_and_cache(query, key, value, angles, cache, batch.slots)
    return paged_decode(query, cache, batch.tables, batch.contexts, attention.window)


def _product(linear: nn.Module, rows: Tensor) -> Tensor:
    """Of a plain weight; a quantized module chooses its kernel itself."""
    if isinstance(linear, nn.Linear) and len(rows) <= _ROWS_OF_OUR_PRODUCT:
        return plain_linear(rows, linear.weight, linear.bias)
    product: Tensor = linear(rows)
    return product
