"""The next token of each row of logits."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from serving.engine.request import SamplingParams
from serving.engine.scheduler import Slice

_USUALLY_ENOUGH = 512  # tokens that hold the mass of top_p


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
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_k > 0:
        probabilities, token_ids = probabilities.topk(min(sampling.top_k, len(logits)))
        return _nucleus(probabilities, token_ids, sampling.top_p * float(probabilities.sum()))
    if sampling.top_p < 1.0:
        return _nucleus(*_enough_of(probabilities, sampling.top_p), sampling.top_p)
    return probabilities, torch.arange(len(logits), device=logits.device)


def _enough_of(probabilities: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """The most probable tokens in order, at least until they reach mass together.

    A few hundred nearly always do, and picking them takes a tenth of sorting a vocabulary.
    """
    most_probable, token_ids = probabilities.topk(min(_USUALLY_ENOUGH, len(probabilities)))
    if float(most_probable.sum()) > mass:
        return most_probable, token_ids
    in_order = probabilities.sort(descending=True, stable=True)
    return in_order.values, in_order.indices


def _nucleus(probabilities: Tensor, token_ids: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """A token stays while those before it have not reached mass together, so the first always does."""
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = max(1, int((before < mass).sum()))
    return probabilities[:kept], token_ids[:kept]


def dice_throw(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at position of an answer: stateless, so that a preempted request
    and one in another batch throw the same."""
    name = f"{seed} {position}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / 2**64
