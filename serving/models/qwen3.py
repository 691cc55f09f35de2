"""Qwen 3, dense: queries and keys are normed head by head."""

from collections.abc import Mapping
from typing import Any

from serving.models.config import DecoderConfig, sizes
from serving.models.qwen2 import late_windows

ARCHITECTURE = "Qwen3ForCausalLM"
_HEAD_DIM = 128  # what config.json means where it doesn't say


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    known = sizes({"head_dim": _HEAD_DIM} | dict(config))
    windows = late_windows(config, known["num_hidden_layers"])
    attention_bias = config.get("attention_bias", False)
    return DecoderConfig(
        **known | {"windows": windows},
        architecture=ARCHITECTURE,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        head_norms=True,
    )
