"""SmolLM 3: a Llama with layers that know no positions, every fourth one."""

from collections.abc import Mapping
from typing import Any

from serving.models.config import DecoderConfig, layer_windows, sizes, whole

ARCHITECTURE = "SmolLM3ForCausalLM"
_THETA = 2_000_000.0
_KV_HEADS = 4


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    known = sizes({"num_key_value_heads": _KV_HEADS} | dict(config), theta=_THETA, tied=True)
    rotated = _rotated(config, known["num_hidden_layers"])
    attention_bias = config.get("attention_bias", False)
    return DecoderConfig(
        **known | {"rotated": rotated, "windows": _windows(config, rotated)},
        architecture=ARCHITECTURE,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=config.get("mlp_bias", False),
    )


def _rotated(config: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """no_rope_layers says 1 for layers that turn; the list may be longer than the model."""
    said = config.get("no_rope_layers")
    if said is not None:
        return tuple(bool(turns) for turns in said[:layers])
    every = whole(config, "no_rope_layer_interval", 4)
    return tuple((layer + 1) % every != 0 for layer in range(layers))


def _windows(config: Mapping[str, Any], rotated: tuple[bool, ...]) -> tuple[int | None, ...]:
    """Where there are windows, those layers have them that don't turn; layer_types know better."""
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    windows = tuple(None if turns else window for turns in rotated)
    return layer_windows(config.get("layer_types"), window, windows)
