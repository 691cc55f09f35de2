"""A Llama in GGUF (llama.cpp's format), dequantized."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from serving.weights.checkpoint import Checkpoint, ModelNotLoaded
from serving.weights.gguf_tokenizer import tokenizer_config, tokenizer_json

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<kind>weight|bias)")


def read_gguf(file: Path, dtype: torch.dtype) -> Checkpoint:
    """Read and dequantize a GGUF file; slow (a 135M model takes seconds).

    Raises ModelNotLoaded where it is no GGUF, not of the llama architecture, or has a tokenizer not known here.
    """
    reader = _open(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    _check_architecture(file, metadata)
    config = _config(
        metadata, tied=all(tensor.name != "output.weight" for tensor in reader.tensors)
    )
    return Checkpoint(
        config=config,
        tensors=dict(_tensor(tensor, config, dtype) for tensor in reader.tensors),
        tokenizer_json=tokenizer_json(metadata),
        tokenizer_config=tokenizer_config(metadata),
    )


def _open(file: Path) -> GGUFReader:
    try:
        return GGUFReader(file)
    except (ValueError, OSError) as error:
        raise ModelNotLoaded(f"'{file}' cannot be read as GGUF: {error}") from error


def _check_architecture(file: Path, metadata: Mapping[str, Any]) -> None:
    found = metadata.get("general.architecture")
    if found != "llama":
        raise ModelNotLoaded(
            f"'{file.name}' holds the architecture '{found}'; of GGUF files this runtime reads 'llama'"
        )


def _config(metadata: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """config.json's content. GGUF ties embeddings by leaving the output matrix out."""

    def llama(key: str, default: Any = None) -> Any:
        return metadata.get(f"llama.{key}", default)

    heads = llama("attention.head_count")
    head_dim = llama("embedding_length") // heads
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": llama("embedding_length"),
        "intermediate_size": llama("feed_forward_length"),
        "num_hidden_layers": llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": llama("attention.head_count_kv", heads),
        "head_dim": llama("attention.key_length", head_dim),
        "max_position_embeddings": llama("context_length"),
        "rms_norm_eps": llama("attention.layer_norm_rms_epsilon"),
        "rope_theta": llama("rope.freq_base", 10_000.0),
        "tie_word_embeddings": tied,
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
    }


def _tensor(tensor: Any, config: Mapping[str, Any], dtype: torch.dtype) -> tuple[str, Tensor]:
    """Hugging Face's name and the dequantized tensor. GGUF keeps the fastest dimension first; numpy undoes that."""
    name, part = _hugging_face_name(tensor.name)
    # What needs no dequantizing comes as a view of the file, read-only; torch wants memory of its own.
    array = numpy.require(dequantize(tensor.data, tensor.tensor_type), requirements="W")
    values = torch.from_numpy(array)
    if part == "attn_q":
        values = _half_split(values, config["num_attention_heads"])
    elif part == "attn_k":
        values = _half_split(values, config["num_key_value_heads"])
    return name, values.to(dtype).contiguous()


def _hugging_face_name(name: str) -> tuple[str, str]:
    match = _TENSOR_NAME.fullmatch(name)
    if match is None or match["part"] not in _NAMES:
        raise ModelNotLoaded(
            f"the GGUF file has a tensor '{name}' that this runtime does not compute with; "
            "use the model's Hugging Face folder"
        )
    layer = "" if match["layer"] is None else f"model.layers.{match['layer']}."
    return f"{layer}{_NAMES[match['part']]}.{match['kind']}", match["part"]


def _half_split(rows: Tensor, heads: int) -> Tensor:
    """GGUF interleaves the two halves of each head for its rotary kernel; put them one behind the other again."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
