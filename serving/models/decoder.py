"""The decoder that all families here share; a DecoderConfig says in what they differ.

The order of operations and of roundings is transformers', so that greedy answers are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from serving.kernels import native_decoder, triton_jit
from serving.layers.attention import LayerCache, PagedBatch, paged_attention
from serving.layers.mlp import GatedMLP
from serving.layers.norm import RMSNorm
from serving.layers.rotary import Angles, frequencies, rotate, rotation
from serving.layers.rotary_by_length import ByLength, frequencies_of, sequence_lengths
from serving.models.config import DecoderConfig


class Attention(nn.Module):
    """Grouped-query attention. Query, key and value are one matrix, read in one call."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.windows[layer]
        self.rotated = config.rotated[layer]
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.sizes = [query_size, kv_size, kv_size]
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        self.q_norm, self.k_norm = (
            RMSNorm(config.head_dim, config.rms_norm_eps) if config.head_norms else None
            for _ in range(2)
        )

    def forward(
        self, hidden: Tensor, angles: Angles, cache: LayerCache, batch: PagedBatch
    ) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv_proj(hidden).split(self.sizes, dim=-1)
        )
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.rotated:
            query, key = rotate(query, *angles), rotate(key, *angles)
        attended = paged_attention(query, key, value, cache, batch, window=self.window)
        projected: Tensor = self.o_proj(attended.flatten(1))
        return projected


class Layer(nn.Module):
    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(
        self, hidden: Tensor, angles: Angles, cache: LayerCache, batch: PagedBatch
    ) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), angles, cache, batch)
        added: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return added


class Decoder(nn.Module):
    """Token ids in, hidden rows out; `logits` turns the rows that are wanted into logits.

    Where the config ties them, lm_head reads the rows of embed_tokens: they lie in memory once.
    """

    inverse_frequencies: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        first, end = config.head_tokens or (0, config.vocab_size)
        self.lm_head = nn.Linear(config.hidden_size, end - first, bias=False)
        if config.tie_word_embeddings:
            self.tie_head()
        self.register_buffer(
            "inverse_frequencies", frequencies(config.head_dim, config.rope), persistent=False
        )

    def tie_head(self) -> None:
        """Let the head read the embedding's rows."""
        rows = self.embed_tokens.weight
        if self.config.head_tokens is not None:
            first, end = self.config.head_tokens
            rows = nn.Parameter(rows[first:end], requires_grad=rows.requires_grad)
        self.lm_head.weight = rows

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        caches: Sequence[LayerCache],
        batch: PagedBatch,
    ) -> Tensor:
        """Hidden rows [rows, hidden_size] of token_ids and positions [rows]; fills the caches, one a layer."""
        if token_ids.is_cuda and triton_jit.installed():
            from serving.kernels import triton_decoder  # takes seconds, and needs a GPU

            return triton_decoder.forward(self, token_ids, positions, caches, batch)
        if native_decoder.usable(self, caches):
            return native_decoder.forward(self, token_ids, positions, caches, batch)
        hidden: Tensor = self.embed_tokens(token_ids)
        angles = self.angles(positions, batch)
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer(hidden, angles, cache, batch)
        normed: Tensor = self.norm(hidden)
        return normed

    def angles(self, positions: Tensor, batch: PagedBatch) -> Angles:
        """By which a step's rows are turned."""
        rope, rows = self.config.rope, self.inverse_frequencies
        if isinstance(rope.scaling, ByLength):
            rows = frequencies_of(sequence_lengths(positions, batch.spans), rows, rope.scaling)
        return rotation(positions, rows, self.dtype, rope.attention_factor)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocab_size] of hidden rows, in the model's dtype."""
        projected: Tensor = self.lm_head(hidden)
        return projected
