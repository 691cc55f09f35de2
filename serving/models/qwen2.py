"""Qwen 2 and 2.5: biases on queries, keys and values; late layers may see a window only."""

from collections.abc import Mapping
from typing import Any

from serving.models.config import DecoderConfig, layer_windows, sizes

ARCHITECTURE = "Qwen2ForCausalLM"


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    known = sizes(config)
    windows = late_windows(config, known["num_hidden_layers"])
    return DecoderConfig(**known | {"windows": windows}, architecture=ARCHITECTURE, qkv_bias=True)


def late_windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Windows from layer max_window_layers on, where use_sliding_window says so; layer_types know better."""
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
    first = config.get("max_window_layers", 28)
    windows = tuple(None if layer < first else window for layer in range(layers))
    return layer_windows(config.get("layer_types"), window, windows)
