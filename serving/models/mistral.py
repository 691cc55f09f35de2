"""Mistral: a Llama whose layers may all see a window only."""

from collections.abc import Mapping
from typing import Any

from serving.models.config import DecoderConfig, sizes
from serving.models.unsupported import UnsupportedModel

ARCHITECTURE = "MistralForCausalLM"
_WINDOW = 4096  # what config.json means where it doesn't say; null says that there is none
_KV_HEADS = 8


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    if config.get("layer_types"):
        raise UnsupportedModel(
            f"config.json of a {ARCHITECTURE} has layer_types, which its own code passes over; "
            "expected none: is it another architecture?"
        )
    known = sizes({"num_key_value_heads": _KV_HEADS} | dict(config))
    window = config.get("sliding_window", _WINDOW)
    windows = (window,) * known["num_hidden_layers"]
    return DecoderConfig(**known | {"windows": windows}, architecture=ARCHITECTURE)
