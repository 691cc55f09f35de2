"""Which architectures there are, and which one a config.json is of."""

from collections.abc import Callable, Mapping
from typing import Any

from serving.models import llama, mistral, qwen2, qwen3, smollm3
from serving.models.config import DecoderConfig
from serving.models.unsupported import UnsupportedModel

_ReadConfig = Callable[[Mapping[str, Any]], DecoderConfig]
DECODERS: dict[str, _ReadConfig] = {
    family.ARCHITECTURE: family.read_config for family in (llama, mistral, qwen2, qwen3, smollm3)
}
_NAMED = "LlamaForCausalLM (Llama 2 and 3, SmolLM2, TinyLlama), " + ", ".join(
    name for name in DECODERS if name != llama.ARCHITECTURE
)


def read_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a config.json describes. Raises UnsupportedModel for another architecture or an unknown variant."""
    found = architecture(config)
    if found not in DECODERS:
        raise UnsupportedModel(
            f"the model's architecture is '{found}'; this runtime computes {_NAMED}"
        )
    try:
        return DECODERS[found](config)
    except KeyError as missing:
        raise UnsupportedModel(f"config.json says no {missing}") from None


def architecture(config: Mapping[str, Any]) -> str:
    """What config.json calls itself; 'nothing' where it doesn't say."""
    named = config.get("architectures") or [_BY_TYPE.get(config.get("model_type", ""), "nothing")]
    return str(named[0])


_BY_TYPE = {
    "llama": llama.ARCHITECTURE,
    "mistral": mistral.ARCHITECTURE,
    "qwen2": qwen2.ARCHITECTURE,
    "qwen3": qwen3.ARCHITECTURE,
    "smollm3": smollm3.ARCHITECTURE,
}
