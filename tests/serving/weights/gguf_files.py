"""Small GGUF files, written as llama.cpp's converter does."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from torch import Tensor

from tests.serving.models.tiny import SHAPE

THEIR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
INTERLEAVED = ("llama", "smollm3")
_F32 = GGMLQuantizationType.F32

Encode = Callable[[Any, GGMLQuantizationType], Any]


def write_gguf(
    file: Path,
    model: Any,
    *,
    architecture: str = "llama",
    pre_tokenizer: str = "smollm",
    matrices: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    encode: Encode = quantize,
    more: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    most_tensors: int = 0,
) -> None:
    """Write transformers' model; vectors stay fp32.

    encode     makes a matrix's bytes.
    more       metadata beside the usual, without the architecture in front; a key with a None is left out.
    tensors    more of them, fp32.
    most_tensors   of one file: the model is split into such as x-00001-of-00003.gguf. 0: one file has all.
    """
    writer = GGUFWriter(file, architecture, split_max_tensors=most_tensors)
    metadata = _shape(model.config) | dict(more or {})
    for key, value in metadata.items():
        if value is not None:
            _add(writer, f"{architecture}.{key}", value)
    _add_tokenizer(writer, pre_tokenizer)
    interleaves = architecture in INTERLEAVED
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        rows = _interleaved(name, tensor, model.config) if interleaves else tensor
        kind = matrices if tensor.dim() == 2 else _F32
        how = encode if tensor.dim() == 2 else quantize
        writer.add_tensor(_their_name(name), how(rows.float().numpy(), kind), raw_dtype=kind)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, numpy.asarray(values, dtype=numpy.float32))
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _shape(config: Any) -> dict[str, Any]:
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": getattr(config, "head_dim", None),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    add = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool}
    add.get(type(value), writer.add_uint32)(key, value)


def _add_tokenizer(writer: GGUFWriter, pre_tokenizer: str) -> None:
    letters = [chr(code) for code in range(0x21, 0x21 + SHAPE["vocab_size"] - 2)]
    tokens = ["<end>", "ab", *letters][: SHAPE["vocab_size"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)


def _interleaved(name: str, tensor: Tensor, config: Any) -> Tensor:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            return tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
    return tensor


def _their_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    prefix = ""
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        prefix = f"blk.{layer}."
    return f"{prefix}{THEIR_NAMES[stem]}.{kind}"
