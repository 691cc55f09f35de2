"""Models so small that they compute in milliseconds, saved as Hugging Face saves one."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 258,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,  # far from uniform logits, so that greedy has no near ties
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def save_tiny_llama(
    folder: Path, *, max_shard_size: str = "5GB", **changes: Any
) -> LlamaForCausalLM:
    """Save model and tokenizer; returns transformers' model."""
    return save_tiny("Llama", folder, max_shard_size=max_shard_size, **changes)


def save_tiny(
    architecture: str, folder: Path, *, max_shard_size: str = "5GB", **changes: Any
) -> Any:
    """The same for any family, named as in transformers' classes."""
    torch.manual_seed(5)
    config = getattr(transformers, f"{architecture}Config")(**SHAPE | changes)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    _tokenizer().save_pretrained(folder)
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    """A token is a byte, besides <s> and </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )
