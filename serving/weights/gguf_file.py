"""A decoder in GGUF (llama.cpp's format): tensors are dequantized when they are looked up."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGMLQuantizationType, dequantize
from torch import Tensor

from serving.weights.checkpoint import Checkpoint
from serving.weights.gguf_config import INTERLEAVED, check_architecture, config_json
from serving.weights.gguf_header import StoredTensor
from serving.weights.gguf_parts import read_parts
from serving.weights.gguf_tokenizer import tokenizer_config, tokenizer_json
from serving.weights.grouped import GroupedCodes, grouped, widen
from serving.weights.not_loaded import ModelNotLoaded

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<kind>weight|bias)")
_FREQUENCY_FACTORS = "rope_freqs.weight"  # in place of rope scaling's numbers
_INTERLEAVED_PARTS = {
    "self_attn.q_proj": "num_attention_heads",
    "self_attn.k_proj": "num_key_value_heads",
}


def read_gguf(file: Path) -> Checkpoint:
    """The checkpoint that a GGUF file holds, or that it is a part of; its tensors come in fp32.

    Raises ModelNotLoaded where it is no whole GGUF file, of an architecture or with a tokenizer that is not known here.
    """
    header = read_parts(file)
    architecture = check_architecture(file, header.metadata)
    stored = dict(header.tensors)
    config = config_json(file, header.metadata, stored)
    factors = stored.pop(_FREQUENCY_FACTORS, None)
    if factors is not None:
        config["rope_scaling"] = {
            "rope_type": "frequency_factors",
            "factors": _dequantized(_FREQUENCY_FACTORS, factors).tolist(),
        }
    tensors = GgufTensors(stored, config, interleaved=architecture in INTERLEAVED)
    return Checkpoint(
        config=config,
        tensors=tensors,
        tokenizer_json=tokenizer_json(header.metadata),
        tokenizer_config=tokenizer_config(header.metadata),
        grouped=tensors.grouped,
    )


class GgufTensors(Mapping[str, Tensor]):
    """A file's tensors by Hugging Face's names; a lookup dequantizes one."""

    def __init__(
        self, stored: Mapping[str, StoredTensor], config: Mapping[str, Any], *, interleaved: bool
    ) -> None:
        self._stored = {_hugging_face_name(name): tensor for name, tensor in stored.items()}
        self._config, self._interleaved = config, interleaved

    def __getitem__(self, name: str) -> Tensor:
        return self._half_split(name, _dequantized(name, self._stored[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def grouped(self, name: str) -> GroupedCodes | None:
        """A tensor's codes as the file has them; None where it has none such."""
        codes = grouped(self._stored[name]) if name in self._stored else None
        if codes is None:
            return None
        return GroupedCodes(*(self._half_split(name, part) for part in codes))

    def _half_split(self, name: str, rows: Tensor) -> Tensor:
        """llama.cpp interleaves the two halves of some models' heads; here they lie one behind the other."""
        for part, heads in _INTERLEAVED_PARTS.items():
            if self._interleaved and part in name:
                halves = rows.reshape(self._config[heads], -1, 2, *rows.shape[1:])
                return halves.transpose(1, 2).reshape(rows.shape)
        return rows


def _dequantized(name: str, stored: StoredTensor) -> Tensor:
    """fp32, in torch's shape."""
    codes = grouped(stored)
    if codes is not None:
        return widen(codes)
    if stored.kind == GGMLQuantizationType.BF16:  # numpy has none
        words = torch.from_numpy(stored.data.copy()).view(torch.bfloat16)
        return words.float().view(stored.shape)
    try:
        values = dequantize(stored.data, stored.kind)
    except NotImplementedError:
        raise ModelNotLoaded(
            f"the GGUF file has '{name}' in the quantization {stored.kind.name}, which is not read here; "
            "use another file of the model, such as Q4_K_M or Q8_0"
        ) from None
    # What needs no dequantizing comes as a view of the file, read-only; torch wants memory of its own.
    array = numpy.require(values, dtype=numpy.float32, requirements=["W", "C"])
    return torch.from_numpy(array).view(stored.shape)


def _hugging_face_name(name: str) -> str:
    match = _TENSOR_NAME.fullmatch(name)
    if match is None or match["part"] not in _NAMES:
        raise ModelNotLoaded(
            f"the GGUF file has a tensor '{name}' that this runtime does not compute with; "
            "use the model's Hugging Face folder"
        )
    layer = "" if match["layer"] is None else f"model.layers.{match['layer']}."
    return f"{layer}{_NAMES[match['part']]}.{match['kind']}"
