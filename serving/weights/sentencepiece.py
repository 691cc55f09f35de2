"""A SentencePiece vocabulary (Llama 2's, Mistral's) as the merges that the tokenizers library wants.

SentencePiece joins the two neighbours whose joined piece has the highest score, again and again. So every way to cut a piece
in two other ones is a merge, and merges are in the order of their piece's score. A character that is in no piece is spelt in
bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

_SPACE = "▁"  # U+2581, how pieces write a space
_UNKNOWN_ID = 0
_NORMAL = 1  # of tokenizer.ggml.token_type


def sentencepiece_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file's tokens and scores, without added tokens."""
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", _UNKNOWN_ID)]
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            merges(_piece_scores(metadata)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return tokenizer


def merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every cut of a piece in two pieces, the best piece's first; scores by piece."""
    cuts = [
        (-score, piece[:place], piece[place:])
        for piece, score in scores.items()
        for place in range(1, len(piece))
        if piece[:place] in scores and piece[place:] in scores
    ]
    return [(first, second) for _, first, second in sorted(cuts)]


def _piece_scores(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Of pieces of text: what stands for control or for a byte is never joined from letters."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    kinds = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    described = zip(tokens, scores, kinds, strict=True)
    return {token: score for token, score, kind in described if kind == _NORMAL}
