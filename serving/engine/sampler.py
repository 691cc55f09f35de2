"""The next token of each row of logits."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from serving.engine.request import SamplingParams
from serving.engine.scheduler import Slice


def sample(logits: Tensor, slices: Sequence[Slice]) -> list[int]:
    """One token id for each slice, from logits [len(slices), vocab_size].

    A row is treated by itself, with dice of its own: the same seed gives the same answer whoever is beside it.
    """
    chosen = logits.argmax(dim=-1).tolist()
    return [
        greedy if part.sampling.greedy else _draw(logits[row], part)
        for row, (greedy, part) in enumerate(zip(chosen, slices, strict=True))
    ]


def _draw(logits: Tensor, part: Slice) -> int:
    """Throw the dice over the tokens that top_k and top_p leave, most probable first."""
    probabilities, token_ids = _candidates(logits.float(), part.sampling)
    cumulative = probabilities.double().cumsum(dim=-1)
    dice = cumulative[-1] * dice_throw(part.seed, part.position)
    index = torch.searchsorted(cumulative, dice, right=True).clamp(max=len(cumulative) - 1)
    return int(token_ids[index])


def _candidates(logits: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """Probabilities (not normalized again after the cut) and token ids."""
    count = min(sampling.top_k, len(logits)) if sampling.top_k > 0 else len(logits)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if count == len(logits) and sampling.top_p >= 1.0:
        return probabilities, torch.arange(len(logits), device=logits.device)
    probabilities, token_ids = probabilities.sort(descending=True, stable=True)
    probabilities = probabilities[:count]
    # A token stays while those before it have not reached top_p together, so the first always does.
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = max(1, int((before < sampling.top_p * probabilities.sum()).sum()))
    return probabilities[:kept], token_ids[:kept]


def dice_throw(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at position of an answer: stateless, so that a preempted request
    and one in another batch throw the same."""
    name = f"{seed} {position}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / 2**64
