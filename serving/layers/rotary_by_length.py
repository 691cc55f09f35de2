"""Rotary embedding whose frequencies depend on how long a row's sequence is: dynamic NTK and LongRoPE.

A key is turned once, when it goes into the cache, with the frequencies for the length that its sequence has then. As in
transformers, that is the prompt's length for all tokens of a prompt, whatever the chunks that it is computed in, and for
a token of an answer its own place. So equal tokens in prompts of different lengths may have different keys.

    sequence_lengths   of a step's rows
    frequencies_of     rows of such lengths
    kind_of_keys       where prompts have the same, equal beginnings have equal keys
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from serving.layers.attention import Span
from serving.layers.rotary import DynamicScaling, LongropeScaling, Rope

ByLength = DynamicScaling | LongropeScaling


def sequence_lengths(positions: Tensor, spans: Sequence[Span]) -> Tensor:
    """Tokens, int64 [rows], for positions [rows]."""
    lengths = positions + 1
    for span in spans:
        lengths[span.first_row : span.first_row + span.rows].clamp_(min=span.prompt_tokens)
    return lengths


def frequencies_of(lengths: Tensor, frequencies: Tensor, scaling: ByLength) -> Tensor:
    """Radians per position, fp32 [rows, head_dim / 2], in sequences of these lengths; frequencies as rotary's has them."""
    original = scaling.original_max_position_embeddings
    if isinstance(scaling, LongropeScaling):
        short, long = frequencies
        return torch.where((lengths > original)[:, None], long, short)
    # theta times growth^(d / (d − 2)), for heads of d numbers: the slowest wave becomes as much longer as the sequence does.
    growth = 1 + scaling.factor * (lengths.clamp(min=original) / original - 1)
    half = len(frequencies)
    exponents = torch.arange(half, device=frequencies.device) / max(half - 1, 1)
    return frequencies / growth[:, None] ** exponents


def kind_of_keys(ropes: Sequence[Rope], prompt_tokens: int) -> bytes:
    """What keys of a prompt of this length depend on, beside its tokens, in models with these ropes."""
    return b"".join(_length_that_counts(rope, prompt_tokens).to_bytes(8) for rope in ropes)


def _length_that_counts(rope: Rope, tokens: int) -> int:
    scaling = rope.scaling
    if not isinstance(scaling, ByLength) or tokens <= scaling.original_max_position_embeddings:
        return 0
    return tokens if isinstance(scaling, DynamicScaling) else 1
