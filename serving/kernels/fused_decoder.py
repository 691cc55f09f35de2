"""A decoder's step in fused operations: the same roundings as the plain modules, in a fraction of their calls.

    Operations   what a device has for a step
    forward      what Decoder.forward computes, by them

A layer's plain modules call some forty operators of torch beside its four products. For a few rows of a small model these
take longer than the products, on a CPU to be called and on a GPU to be launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from serving.layers.attention import LayerCache, PagedBatch
from serving.layers.rotary import Angles

if TYPE_CHECKING:
    from serving.models.decoder import Attention, Decoder, Layer


class Attend(Protocol):
    """Turns query and key by angles, None for not at all; writes key and value to the cache; attends.

    query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim] may be parts of one product. Returns
    [rows, heads, head_dim].
    """

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        angles: Angles | None,
        cache: LayerCache,
        batch: PagedBatch,
        window: int | None,
        /,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Operations:
    """A device's operations; each rounds where the plain modules of serving/layers round.

    add_rms_norm   hidden, added, weight, eps → hidden + added, normed and times weight; and the sum itself. None adds nothing
    norm_heads     heads [rows, n, head_dim], weight, eps → each head normed and times weight
    product        a linear module, rows → rows through it
    silu_mul       [rows, 2 · size] with the gate in front → silu(gate) · up
    """

    add_rms_norm: Callable[[Tensor, Tensor | None, Tensor, float], tuple[Tensor, Tensor]]
    norm_heads: Callable[[Tensor, Tensor, float], Tensor]
    product: Callable[[nn.Module, Tensor], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    attend: Attend


def forward(
    operations: Operations,
    decoder: Decoder,
    token_ids: Tensor,
    positions: Tensor,
    caches: Sequence[LayerCache],
    batch: PagedBatch,
) -> Tensor:
    """Hidden rows [rows, hidden_size] of token_ids and positions [rows]; fills the caches, one a layer."""
    add_rms_norm, product = operations.add_rms_norm, operations.product
    residual: Tensor = decoder.embed_tokens(token_ids)
    angles = decoder.angles(positions, batch)
    eps = decoder.config.rms_norm_eps
    added: Tensor | None = None
    for layer, cache in zip(cast("Iterable[Layer]", decoder.layers), caches, strict=True):
        hidden, residual = add_rms_norm(residual, added, layer.input_layernorm.weight, eps)
        added = _attention(operations, layer.self_attn, hidden, angles, cache, batch)
        weight = layer.post_attention_layernorm.weight
        hidden, residual = add_rms_norm(residual, added, weight, eps)
        gated = operations.silu_mul(product(layer.mlp.gate_up_proj, hidden))
        added = product(layer.mlp.down_proj, gated)
    return add_rms_norm(residual, added, decoder.norm.weight, eps)[0]


def _attention(
    operations: Operations,
    attention: Attention,
    hidden: Tensor,
    angles: Angles,
    cache: LayerCache,
    batch: PagedBatch,
) -> Tensor:
    qkv = operations.product(attention.qkv_proj, hidden)
    query, key, value = (
        part.view(len(hidden), -1, attention.head_dim)
        for part in torch.split(qkv, attention.sizes, dim=-1)
    )
    if attention.q_norm is not None and attention.k_norm is not None:
        query = operations.norm_heads(query, attention.q_norm.weight, attention.q_norm.eps)
        key = operations.norm_heads(key, attention.k_norm.weight, attention.k_norm.eps)
    turned_by = angles if attention.rotated else None
    attended = operations.attend(query, key, value, turned_by, cache, batch, attention.window)
    return operations.product(attention.o_proj, attended.flatten(1))
