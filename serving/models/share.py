"""Which part of a decoder each of several ranks computes.

Heads, inner rows of the feed-forward blocks and tokens of the vocabulary are dealt out in order. A rank's part is a decoder
of its own, with fewer heads and narrower blocks: its layers' products are parts of sums (see layers/parallel.py). The
embedding and the norms every rank has whole.

    Share     one rank of several
    part_of   what of a decoder it computes
    Piece     what of one of the checkpoint's tensors that takes
    join      makes a part compute with the others
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

from serving.layers.parallel import Gathered, Summed
from serving.models.config import DecoderConfig
from serving.models.decoder import Decoder, Layer
from serving.models.unsupported import UnsupportedModel

_MOST_RANKS_NAMED = 64


@dataclass(frozen=True, slots=True)
class Share:
    """Rank `rank` of `ranks`, from 0."""

    rank: int = 0
    ranks: int = 1


WHOLE = Share()


@dataclass(frozen=True, slots=True)
class Piece:
    """Of dimension `dim`, which is `size` long: from start to end, which is excluded."""

    dim: int
    size: int
    start: int
    end: int


def part_of(config: DecoderConfig, share: Share) -> DecoderConfig:
    """The decoder that one rank computes; a rank has at least one key-value head, which it may share with others.

    Raises UnsupportedModel where heads or feed-forward rows can't be dealt out evenly.
    """
    if share == WHOLE:
        return config
    if not _is_even(config, share.ranks):
        raise UnsupportedModel(_why_not(config, share.ranks))
    tokens = head_tokens(config.vocab_size, share)
    return replace(
        config,
        num_attention_heads=config.num_attention_heads // share.ranks,
        num_key_value_heads=max(config.num_key_value_heads // share.ranks, 1),
        intermediate_size=config.intermediate_size // share.ranks,
        head_tokens=(tokens.start, tokens.stop),
    )


def _is_even(config: DecoderConfig, ranks: int) -> bool:
    kv_heads = config.num_key_value_heads
    return (
        config.num_attention_heads % ranks == 0
        and (kv_heads % ranks == 0 or ranks % kv_heads == 0)
        and config.intermediate_size % ranks == 0
        and config.vocab_size >= ranks
    )


def _why_not(config: DecoderConfig, ranks: int) -> str:
    possible = [str(n) for n in range(2, _MOST_RANKS_NAMED + 1) if _is_even(config, n)]
    do = f"use {' or '.join(possible)} ranks" if possible else "use one rank"
    return (
        f"{config.num_attention_heads} attention heads, {config.num_key_value_heads} key-value heads and "
        f"{config.intermediate_size} feed-forward rows can't be dealt out evenly to {ranks} ranks; {do}"
    )


def head_tokens(vocab_size: int, share: Share) -> range:
    """The tokens whose logits a rank computes. The first ranks have one more where they don't come out even."""
    each, over = divmod(vocab_size, share.ranks)
    start = share.rank * each + min(share.rank, over)
    return range(start, start + each + (share.rank < over))


def piece_of(config: DecoderConfig, share: Share, name: str) -> Piece | None:
    """What a rank needs of the tensor that a checkpoint of the whole decoder has under this name; None: all of it."""
    module, _, kind = name.rpartition(".")
    part = module.rpartition(".")[2]
    if part in ("q_proj", "k_proj", "v_proj"):
        return _heads(config, share, 0, is_query=part == "q_proj")
    if part in ("gate_proj", "up_proj"):
        return _evenly(0, config.intermediate_size, share)
    if part == "lm_head":
        tokens = head_tokens(config.vocab_size, share)
        return Piece(0, config.vocab_size, tokens.start, tokens.stop)
    if kind != "weight":
        return None
    if part == "o_proj":
        return _heads(config, share, 1, is_query=True)
    return _evenly(1, config.intermediate_size, share) if part == "down_proj" else None


def is_added_once(name: str) -> bool:
    """Whether it is a bias of a product whose parts are added up: one rank has it, the others zeros."""
    return name.endswith(("o_proj.bias", "down_proj.bias"))


def _heads(config: DecoderConfig, share: Share, dim: int, *, is_query: bool) -> Piece:
    heads = config.num_attention_heads if is_query else config.num_key_value_heads
    first = share.rank * heads // share.ranks
    count = max(heads // share.ranks, 1)
    size = config.head_dim
    return Piece(dim, heads * size, first * size, (first + count) * size)


def _evenly(dim: int, size: int, share: Share) -> Piece:
    each = size // share.ranks
    return Piece(dim, size, share.rank * each, (share.rank + 1) * each)


def join(part: Decoder) -> None:
    """Let a rank's part compute with the others', in place, once its layers are what they are to be: quantized, packed."""
    for layer in cast("Iterable[Layer]", part.layers):
        layer.self_attn.add_module("o_proj", Summed(layer.self_attn.o_proj))
        layer.mlp.add_module("down_proj", Summed(layer.mlp.down_proj))
    part.add_module("lm_head", Gathered(part.lm_head, part.config.vocab_size))
