"""BERT, as the encoder of embedding models.

Texts lie one behind the other as rows, without padding between them: every product is of all rows, attention is text by
text. The order of operations is transformers'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.models.config import whole
from serving.models.filling import fill
from serving.models.unsupported import UnsupportedModel

ARCHITECTURES = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
_NEEDLESS = (
    "pooler.",
    "cls.",
    "embeddings.position_ids",
)  # heads of other uses, and a table of 0, 1, 2, …


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """The shape of a model. Names are config.json's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float


def read_config(config: Mapping[str, Any]) -> BertConfig:
    """Raises UnsupportedModel for a variant that is not computed here."""
    for name, wanted in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
        found = config.get(name, wanted)
        if found != wanted:
            raise UnsupportedModel(f"{name} is '{found}'; of BERT this runtime computes '{wanted}'")
    return BertConfig(
        vocab_size=whole(config, "vocab_size"),
        hidden_size=whole(config, "hidden_size"),
        intermediate_size=whole(config, "intermediate_size"),
        num_hidden_layers=whole(config, "num_hidden_layers"),
        num_attention_heads=whole(config, "num_attention_heads"),
        max_position_embeddings=whole(config, "max_position_embeddings"),
        type_vocab_size=whole(config, "type_vocab_size", 2),
        layer_norm_eps=config.get("layer_norm_eps", 1e-12),
    )


class _Embeddings(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        words = self.word_embeddings(token_ids) + self.token_type_embeddings.weight[0]
        normed: Tensor = self.LayerNorm(words + self.position_embeddings(positions))
        return normed


class _AddedAndNormed(nn.Module):
    """What BERT calls output: a product, added to what it came from."""

    def __init__(self, inputs: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, rows: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(rows) + residual)
        return normed


class _Layer(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attention_output = _AddedAndNormed(config.hidden_size, config)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = _AddedAndNormed(config.intermediate_size, config)

    def forward(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        attended = [self._attend(text) for text in torch.split(self.qkv(hidden), list(lengths))]
        hidden = self.attention_output(torch.cat(attended), hidden)
        added: Tensor = self.output(functional.gelu(self.intermediate(hidden)), hidden)
        return added

    def _attend(self, qkv: Tensor) -> Tensor:
        """Every token of a text sees all of it."""
        query, key, value = qkv.view(1, len(qkv), 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return attended[0].transpose(0, 1).flatten(1)


class Bert(nn.Module):
    """Texts in, a hidden row for each of their tokens out."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """[rows, hidden_size] of texts in token ids, none of them empty, one behind the other."""
        device = self.embeddings.word_embeddings.weight.device
        token_ids = torch.tensor([token_id for text in texts for token_id in text], device=device)
        positions = torch.cat([torch.arange(len(text)) for text in texts]).to(device)
        hidden: Tensor = self.embeddings(token_ids, positions)
        lengths = [len(text) for text in texts]
        for layer in self.layers:
            hidden = layer(hidden, lengths)
        return hidden


def from_checkpoint(
    config: BertConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Bert:
    """The encoder over a checkpoint's tensors. Raises UnsupportedModel where they are not those of the config."""
    with torch.device("meta"):
        model = Bert(config)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False)
    theirs = {_our_name(name): name for name in tensors}
    theirs = {ours: name for ours, name in theirs.items() if not ours.startswith(_NEEDLESS)}
    fill(_places(model), tensors, theirs, f"a BERT of {config.num_hidden_layers} layers")
    return model.eval()


def _our_name(name: str) -> str:
    """Without the outer name that checkpoints with a head have; early ones call a norm's numbers gamma and beta."""
    plain = name.removeprefix("bert.")
    return plain.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _places(model: Bert) -> dict[str, Tensor]:
    places: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        parts = _their_names(name)
        places |= zip(parts, weight.chunk(len(parts)), strict=True)
    return places


def _their_names(name: str) -> list[str]:
    """Of the checkpoint's tensors that one of ours is made of, one below the other."""
    theirs = name.replace("layers.", "encoder.layer.")
    theirs = theirs.replace(".attention_output.", ".attention.output.")
    theirs = theirs.replace(".intermediate.", ".intermediate.dense.")
    if ".qkv." not in theirs:
        return [theirs]
    return [
        theirs.replace(".qkv.", f".attention.self.{part}.") for part in ("query", "key", "value")
    ]
