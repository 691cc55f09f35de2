"""The Llama family: Llama 2 and 3, SmolLM2, TinyLlama and whatever else says LlamaForCausalLM.

The order of operations and of roundings is transformers', so that greedy answers are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from serving.layers.attention import LayerCache, PagedBatch, paged_attention
from serving.layers.mlp import GatedMLP
from serving.layers.norm import RMSNorm
from serving.layers.rotary import Llama3Scaling, inverse_frequencies, rotate, rotation


class UnsupportedModel(ValueError):
    """The checkpoint asks for something that this runtime does not compute; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The shape of a model. Names are config.json's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        """Read a config.json. Raises UnsupportedModel for another architecture or an unknown variant."""
        _check_supported(config)
        rope = _rope(config)
        heads = config["num_attention_heads"]
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            max_position_embeddings=config["max_position_embeddings"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_theta=rope.get("rope_theta", 10_000.0),
            rope_scaling=_scaling(rope),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            attention_bias=config.get("attention_bias", False),
            mlp_bias=config.get("mlp_bias", False),
        )


def _check_supported(config: Mapping[str, Any]) -> None:
    found = (config.get("architectures") or [config.get("model_type", "nothing")])[0]
    if found not in ("LlamaForCausalLM", "llama"):
        raise UnsupportedModel(
            f"the model's architecture is '{found}'; this runtime computes LlamaForCausalLM "
            "(Llama 2 and 3, SmolLM2, TinyLlama)"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"hidden_act is '{config['hidden_act']}'; expected 'silu'")
    if config.get("quantization_config"):
        raise UnsupportedModel(
            "the folder holds quantized weights (quantization_config in config.json); "
            "use the model's bf16 or fp16 folder, or a GGUF file"
        )


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Both spellings: rope_theta with rope_scaling, and (since transformers 5) one rope_parameters."""
    rope = {"rope_theta": config.get("rope_theta", 10_000.0), **(config.get("rope_scaling") or {})}
    return rope | (config.get("rope_parameters") or {})


def _scaling(rope: Mapping[str, Any]) -> Llama3Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnsupportedModel(f"rope scaling is '{kind}'; expected 'default' or 'llama3'")
    return Llama3Scaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_position_embeddings=rope["original_max_position_embeddings"],
    )


class LlamaAttention(nn.Module):
    """Grouped-query attention. Query, key and value are one matrix, read in one call."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.sizes = [query_size, kv_size, kv_size]
        bias = config.attention_bias
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=bias)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], cache: LayerCache, batch: PagedBatch
    ) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv_proj(hidden).split(self.sizes, dim=-1)
        )
        attended = paged_attention(
            rotate(query, *angles), rotate(key, *angles), value, cache, batch
        )
        projected: Tensor = self.o_proj(attended.flatten(1))
        return projected


class LlamaLayer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], cache: LayerCache, batch: PagedBatch
    ) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), angles, cache, batch)
        added: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return added


class Llama(nn.Module):
    """Token ids in, hidden rows out; `logits` turns the rows that are wanted into logits."""

    inverse_frequencies: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer(
            "inverse_frequencies",
            inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling),
            persistent=False,
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        caches: Sequence[LayerCache],
        batch: PagedBatch,
    ) -> Tensor:
        """Hidden rows [rows, hidden_size] of token_ids and positions [rows]; fills the caches, one a layer."""
        hidden: Tensor = self.embed_tokens(token_ids)
        angles = rotation(positions, self.inverse_frequencies, self.dtype)
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer(hidden, angles, cache, batch)
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, vocab_size] of hidden rows, in the model's dtype."""
        projected: Tensor = self.lm_head(hidden)
        return projected


def from_checkpoint(config: LlamaConfig, tensors: Mapping[str, Tensor]) -> Llama:
    """The model over a checkpoint's tensors, named as Hugging Face names them; dtype and device are theirs.

    Raises UnsupportedModel where a tensor is missing or none of ours.
    """
    with torch.device("meta"):
        model = Llama(config)
    ours = _our_tensors(config, list(model.state_dict()), dict(tensors))
    model.load_state_dict(ours, assign=True)
    return model.requires_grad_(False).eval()


# Matrices that lie apart in a checkpoint and are read as one here.
_MERGED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def _our_tensors(
    config: LlamaConfig, names: Sequence[str], theirs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Take every tensor out of `theirs` under the name it has here."""
    try:
        ours = {name: _take(name, config, theirs) for name in names}
    except KeyError as missing:
        raise UnsupportedModel(
            f"the checkpoint has no tensor {missing}; a {config.num_hidden_layers}-layer "
            "LlamaForCausalLM needs it: is the download complete?"
        ) from None
    _check_all_taken(config, theirs)
    return ours


def _take(name: str, config: LlamaConfig, theirs: dict[str, Tensor]) -> Tensor:
    if name == "lm_head.weight":
        # A tied checkpoint may carry the head as well; then it is the same matrix.
        head = theirs.pop(name, None)
        tied = config.tie_word_embeddings
        return theirs["model.embed_tokens.weight"] if tied or head is None else head
    for merged, parts in _MERGED.items():
        if merged in name:
            return torch.cat([theirs.pop(f"model.{name.replace(merged, part)}") for part in parts])
    return theirs[f"model.{name}"] if name == "embed_tokens.weight" else theirs.pop(f"model.{name}")


def _check_all_taken(config: LlamaConfig, theirs: dict[str, Tensor]) -> None:
    """Old checkpoints carry rotary tables, which are computed here; anything else would be ignored silently."""
    theirs.pop("model.embed_tokens.weight")
    left = sorted(name for name in theirs if not name.endswith("rotary_emb.inv_freq"))
    if left:
        raise UnsupportedModel(
            f"the checkpoint has tensors that a LlamaForCausalLM of {config.num_hidden_layers} layers "
            f"does not use: {', '.join(left[:5])}"
        )
