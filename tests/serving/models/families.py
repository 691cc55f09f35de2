"""Random tiny models of every family, as transformers has them."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from hypothesis import strategies as st

CONTEXT_TOKENS = 64


@dataclass(frozen=True)
class Case:
    """A model's architecture and config, and the seed of its weights."""

    architecture: str
    config: dict[str, Any]
    seed: int


ROPES: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 10_000.0},
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
    {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 1000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 1.5,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
]


@st.composite
def cases(draw: st.DrawFn, architecture: str) -> Case:
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4]))
    layers = draw(st.integers(1, 4))
    head_dim = draw(st.sampled_from([8, 12]))
    config = {
        "vocab_size": 61,
        "hidden_size": heads * 8,
        "intermediate_size": draw(st.sampled_from([24, 40])),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(st.sampled_from(ROPES)),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        **({"head_dim": head_dim} if draw(st.booleans()) or architecture == "Qwen3" else {}),
        **draw(_ITS_OWN[architecture](layers)),
    }
    return Case(architecture, config, draw(st.integers(0, 999)))


def _llama(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"attention_bias": st.booleans(), "mlp_bias": st.booleans()})


def _mistral(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"sliding_window": st.none() | st.integers(1, 20)})


def _late_windows(layers: int) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "use_sliding_window": st.booleans(),
        "sliding_window": st.integers(1, 20),
        "max_window_layers": st.integers(0, layers),
    }


def _layer_types(layers: int) -> dict[str, st.SearchStrategy[Any]]:
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    return {
        "use_sliding_window": st.just(True),
        "sliding_window": st.integers(1, 20),
        "layer_types": st.lists(kinds, min_size=layers, max_size=layers),
    }


def _qwen2(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(_late_windows(layers)) | st.fixed_dictionaries(
        _layer_types(layers)
    )


def _qwen3(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    bias = {"attention_bias": st.booleans()}
    return st.fixed_dictionaries(_late_windows(layers) | bias) | st.fixed_dictionaries(
        _layer_types(layers) | bias
    )


def _smollm3(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    said = st.lists(st.integers(0, 1), min_size=layers, max_size=layers)
    return st.fixed_dictionaries(
        {
            "pad_token_id": st.none(),
            "bos_token_id": st.none(),
            "eos_token_id": st.none(),
            "attention_bias": st.booleans(),
            "mlp_bias": st.booleans(),
            "no_rope_layers": said,
            "use_sliding_window": st.booleans(),
            "sliding_window": st.integers(1, 20),
        }
    ) | st.fixed_dictionaries(
        {
            "pad_token_id": st.none(),
            "bos_token_id": st.none(),
            "eos_token_id": st.none(),
            "no_rope_layer_interval": st.integers(1, 4),
        }
    )


_ITS_OWN = {
    "Llama": _llama,
    "Mistral": _mistral,
    "Qwen2": _qwen2,
    "Qwen3": _qwen3,
    "SmolLM3": _smollm3,
}
FAMILIES = list(_ITS_OWN)


def theirs(case: Case) -> Any:
    """transformers' model, every weight of it random: norms of ones and biases of zeros would hide mistakes."""
    config = getattr(transformers, f"{case.architecture}Config")(**case.config)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{case.architecture}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(case.seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * 0.4 if weight.dim() > 1 else 1 + noise * 0.2)
    return model
