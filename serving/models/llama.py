"""Llama 2 and 3, SmolLM and SmolLM2, TinyLlama, and whatever else says LlamaForCausalLM."""

from collections.abc import Mapping
from typing import Any

from serving.models.config import DecoderConfig, sizes

ARCHITECTURE = "LlamaForCausalLM"


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    attention_bias = config.get("attention_bias", False)
    return DecoderConfig(
        **sizes(config),
        architecture=ARCHITECTURE,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=config.get("mlp_bias", False),
    )
