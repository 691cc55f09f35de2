"""What config.json would say, from the metadata of a GGUF file."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from serving.weights.not_loaded import ModelNotLoaded

# By general.architecture. Mistral's files say 'llama' too: without a window the two are one.
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
# Of these, llama.cpp's converter interleaves the two halves of each head of Q and K.
INTERLEAVED = ("llama", "mistral", "smollm3")


def check_architecture(file: Path, metadata: Mapping[str, Any]) -> str:
    """general.architecture. Raises ModelNotLoaded for one that is not read here."""
    found = str(metadata.get("general.architecture"))
    if found not in _ARCHITECTURES:
        raise ModelNotLoaded(
            f"'{file.name}' holds the architecture '{found}'; of GGUF files this runtime reads "
            f"{', '.join(repr(name) for name in _ARCHITECTURES)}"
        )
    if metadata.get(f"{found}.expert_count"):
        raise ModelNotLoaded(
            f"'{file.name}' holds a mixture of experts; this runtime computes dense models"
        )
    return found


def config_json(
    file: Path, metadata: Mapping[str, Any], tensors: Collection[str]
) -> dict[str, Any]:
    """config.json's content. Raises ModelNotLoaded where the file says too little.

    tensors    GGUF's names: embeddings are tied by leaving the output matrix out, and biases are there or not.
    """
    architecture = check_architecture(file, metadata)
    say = _Sayings(file, metadata, architecture)
    heads = say("attention.head_count")
    return {
        "architectures": [_ARCHITECTURES[architecture]],
        "model_type": architecture,
        "vocab_size": say("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ()))),
        "hidden_size": say("embedding_length"),
        "intermediate_size": say("feed_forward_length"),
        "num_hidden_layers": say("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": say("attention.head_count_kv", heads),
        "head_dim": say("attention.key_length", say("embedding_length") // heads),
        "max_position_embeddings": say("context_length"),
        "rms_norm_eps": say("attention.layer_norm_rms_epsilon"),
        "rope_theta": say("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(say),
        "sliding_window": say("attention.sliding_window", None),
        "attention_bias": architecture != "qwen2" and "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
        "tie_word_embeddings": "output.weight" not in tensors,
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }


_REQUIRED = object()


class _Sayings:
    """Looks up the architecture's own metadata."""

    def __init__(self, file: Path, metadata: Mapping[str, Any], architecture: str) -> None:
        self._file, self._metadata, self._architecture = file, metadata, architecture

    def __call__(self, key: str, default: Any = _REQUIRED) -> Any:
        name = f"{self._architecture}.{key}"
        found = self._metadata.get(name, default)
        if found is _REQUIRED:
            raise ModelNotLoaded(
                f"'{self._file.name}' says no {name}; is it a whole model, and not a part or an adapter?"
            )
        return found


def _rope_scaling(say: _Sayings) -> dict[str, Any] | None:
    """config.json's rope_scaling. Other kinds go through under their names, and are refused by them."""
    early = say("rope.scale_linear", 0.0)  # how files of 2023 say it
    kind = say("rope.scaling.type", "linear" if early else "none")
    factor = say("rope.scaling.factor", early)
    if kind == "none" or not factor:
        return None
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": say(
                "rope.scaling.original_context_length", say("context_length")
            ),
            "beta_fast": say("rope.scaling.yarn_beta_fast", None),
            "beta_slow": say("rope.scaling.yarn_beta_slow", None),
        }
    return {"rope_type": kind, "factor": factor}
