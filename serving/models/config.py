"""The shape of a decoder, whatever family it comes from, and how it is read from a config.json.

DecoderConfig    what serving/models/decoder.py computes
sizes            the fields that every family names the same way
whole            a whole number of config.json, or a clear no
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.layers.rotary import Rope
from serving.models.rope import longest_context, read_rope
from serving.models.unsupported import UnsupportedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape of a model. Names are config.json's where it has them.

    max_position_embeddings   tokens of the longest sequence, with what dynamic NTK adds to config.json's
    qkv_bias, output_bias, mlp_bias   which products add a bias
    head_norms    queries and keys are normed, head by head, before they are turned
    windows       for each layer: a token sees at most so many of the last ones, itself included; None: all of them
    rotated       for each layer: whether positions turn its queries and keys
    head_tokens   the first token whose logits the head computes, and the one behind the last; None: all tokens'
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: Rope
    tie_word_embeddings: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    windows: tuple[int | None, ...]
    rotated: tuple[bool, ...]
    head_tokens: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise UnsupportedModel(
                f"num_attention_heads is {self.num_attention_heads} and num_key_value_heads "
                f"{self.num_key_value_heads}; expected a multiple of it"
            )
        if self.head_dim % 2:
            raise UnsupportedModel(f"head_dim is {self.head_dim}; expected an even number")
        for factors in self.rope.factors:
            if len(factors) != self.head_dim // 2:
                raise UnsupportedModel(
                    f"rope scaling has {len(factors)} factors; expected {self.head_dim // 2}, half of head_dim"
                )
        for name in ("windows", "rotated"):
            found = len(getattr(self, name))
            if found != self.num_hidden_layers:
                raise UnsupportedModel(
                    f"config.json describes {found} layers; expected {self.num_hidden_layers}, "
                    "which is num_hidden_layers"
                )


def sizes(
    config: Mapping[str, Any], *, theta: float = 10_000.0, tied: bool = False
) -> dict[str, Any]:
    """The fields of a DecoderConfig that every family names the same way, without windows and without biases.

    theta, tied    what the family means where config.json doesn't say.

    Raises UnsupportedModel for what no family of ours has, and where a number is missing.
    """
    _check_plain(config)
    layers, heads = whole(config, "num_hidden_layers"), whole(config, "num_attention_heads")
    positions, rope = whole(config, "max_position_embeddings"), read_rope(config, theta)
    return {
        "vocab_size": whole(config, "vocab_size"),
        "hidden_size": whole(config, "hidden_size"),
        "intermediate_size": whole(config, "intermediate_size"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": whole(config, "num_key_value_heads", heads),
        "head_dim": whole(config, "head_dim", whole(config, "hidden_size") // heads),
        "max_position_embeddings": longest_context(rope, positions),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope": rope,
        "tie_word_embeddings": config.get("tie_word_embeddings", tied),
        "windows": (None,) * layers,
        "rotated": (True,) * layers,
    }


def _check_plain(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"hidden_act is '{config['hidden_act']}'; expected 'silu'")
    if config.get("quantization_config"):
        raise UnsupportedModel(
            "the folder holds quantized weights (quantization_config in config.json); "
            "use the model's bf16 or fp16 folder, or a GGUF file"
        )


def whole(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """The positive whole number that config.json gives; null is as good as missing. Raises UnsupportedModel."""
    found = config.get(name)
    if found is None and default is not None:
        return default
    if not isinstance(found, int) or found < 1:
        raise UnsupportedModel(
            f"config.json says {name} is {found!r}; expected a positive whole number"
        )
    return found


def layer_windows(
    kinds: Sequence[str] | None, window: int | None, otherwise: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """What layer_types, config.json's `kinds`, say of each layer; `otherwise` where there are none.

    Raises UnsupportedModel for a kind of layer that is not known here.
    """
    return otherwise if kinds is None else tuple(_window_of(kind, window) for kind in kinds)


def _window_of(kind: str, window: int | None) -> int | None:
    if kind == "full_attention":
        return None
    if kind != "sliding_attention" or window is None:
        raise UnsupportedModel(
            f"a layer's type is '{kind}', and its sliding_window {window}; "
            "expected 'full_attention', or 'sliding_attention' with a sliding_window in use"
        )
    return window
