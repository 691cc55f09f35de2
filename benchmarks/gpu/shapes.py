"""Models in the shapes of real ones, with random weights that are made on the device: never zeros, which a device
computes with less power and so faster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from serving.layers.attention import LayerCache
from serving.models.architectures import read_config
from serving.models.decoder import Decoder

_DEVIATION = 0.02  # of a weight
BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes, named as in config.json; title is for the report."""

    title: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    @property
    def config(self) -> dict[str, Any]:
        """A config.json of the Llama family."""
        sizes = {name: getattr(self, name) for name in self.__slots__ if name != "title"}
        return sizes | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "max_position_embeddings": 8192 + 1024,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
        }

    @property
    def product_weights(self) -> int:
        """Weights of the layers' products: every token goes through each of them."""
        attention = (2 * self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        return self.num_hidden_layers * self.hidden_size * (attention + 3 * self.intermediate_size)

    def kv_bytes_of_a_token(self, dtype: torch.dtype) -> int:
        numbers = 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim
        return numbers * dtype.itemsize

    def prefill_flops(self, tokens: int) -> int:
        """Of a whole prompt: its products, causal attention, and the head for its last token."""
        attention = 2 * tokens * tokens * self.num_attention_heads * self.head_dim
        head = 2 * self.hidden_size * self.vocab_size
        return 2 * tokens * self.product_weights + attention * self.num_hidden_layers + head


EIGHT_B = Shape("8B", 4096, 14336, 32, 32, 8, 128, 128256, tie_word_embeddings=False)
ONE_B = Shape("1B", 2048, 8192, 16, 32, 8, 64, 128256, tie_word_embeddings=True)
SIX_TENTHS_B = Shape("0.6B", 1024, 3072, 28, 16, 8, 128, 151936, tie_word_embeddings=True)
TINY = Shape("tiny", 64, 96, 2, 4, 2, 16, 256, tie_word_embeddings=True)


def random_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> Decoder:
    """A model of the shape, on the device."""
    torch.manual_seed(17)
    with _made_on(device, dtype):
        model = Decoder(read_config(shape.config))
    if shape.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # a norm's weights stay 1
                weight.normal_(0, _DEVIATION)
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def _made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def random_caches(shape: Shape, blocks: int, like: Decoder) -> list[LayerCache]:
    """Caches of `blocks` blocks and one for padding, full of random keys and values."""
    sizes = (blocks + 1, BLOCK_TOKENS, shape.num_key_value_heads, shape.head_dim)

    def numbers() -> torch.Tensor:
        return torch.randn(sizes, dtype=like.dtype, device=like.device)

    return [LayerCache(numbers(), numbers()) for _ in range(shape.num_hidden_layers)]


def bytes_read(model: nn.Module) -> int:
    """What a step reads of a model at least: every weight once, and of an embedding table next to nothing.

    A table that is the head's weight too is read as that.
    """
    seen = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            seen[tensor.data_ptr()] = tensor.nbytes
    return sum(seen.values())
