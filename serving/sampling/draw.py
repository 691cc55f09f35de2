"""Throws the dice over the tokens that min_p, top_k and top_p leave.

Each cut is a floor under the probabilities: a token as probable as the last one that stays, stays too. So which tokens
stay does not depend on the order in which some kernel sorts equals, and bfloat16 has many equals. They stand in the
order of their ids when the dice fall. A row is treated by itself, to the bit:

    draw_on_device   all rows at once, in whole numbers, whose sums are the same in any order; waits for nothing
    draw_on_cpu      one row, in draw_cpu.py, looking first at the few tokens that usually are enough

The cuts follow one another as in vLLM (vllm/v1/sample/sampler.py): temperature, min_p, then top_k, then top_p of what
is left. top_p keeps a token while the more probable ones have not reached top_p together.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serving.engine.request import SamplingParams

# A token's weight is its probability over the most probable token's, times this, as a whole number: even a vocabulary
# of 2**18 equally probable tokens sums below 2**63.
_WHOLE = 2.0**44
_COLDEST = torch.finfo(torch.float32).tiny  # what is colder divides by zero in fp32


@dataclass(frozen=True, slots=True)
class Throw:
    """One token to draw: how, and the number in [0, 1) that decides."""

    sampling: SamplingParams
    dice: float

    @property
    def temperature(self) -> float:
        return max(self.sampling.temperature, _COLDEST)

    @property
    def ranks(self) -> bool:
        """Whether the order of the probabilities matters: with top_k and top_p it does, with min_p not."""
        return self.sampling.top_k > 0 or self.sampling.top_p < 1.0


def dice_throw(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at position of an answer: stateless, so that a preempted request
    and one in another batch throw the same."""
    name = f"{seed} {position}".encode()
    bits = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest())
    return (bits >> 11) / 2**53  # a float holds 53 bits; all 64 would round up to 1.0 now and then


def draw_on_device(scores: Tensor, throws: Sequence[Throw]) -> Tensor:
    """One token id, int64, for each row of scores [rows, vocab] in fp32. Waits for nothing."""
    temperature, min_p, dice = _columns(throws, scores.device)
    behind = scores - scores.amax(dim=-1, keepdim=True)  # never above 0: no temperature overflows
    shares = (behind / temperature.float()).exp()
    shares = _cut(shares, _floors(shares, min_p, throws))
    cumulative = _whole(shares).cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = (dice * total.double()).long().clamp(max=total - 1)
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return drawn.clamp(
        max=scores.shape[-1] - 1
    )  # logits that are no numbers must not point outside


def to_device(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on the device, without waiting for what it is doing: a copy from pinned memory queues up."""
    return sent(torch.tensor(values, dtype=dtype), device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, as to_device does it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _columns(throws: Sequence[Throw], device: torch.device) -> tuple[Tensor, ...]:
    """temperature, min_p and dice, each [rows, 1] in fp64, by one copy."""
    numbers = [
        number for each in throws for number in (each.temperature, each.sampling.min_p, each.dice)
    ]
    return torch.split(to_device(numbers, torch.float64, device).view(-1, 3), 1, dim=1)


def _whole(shares: Tensor) -> Tensor:
    return (shares * _WHOLE).long()


def _cut(shares: Tensor, floors: Tensor) -> Tensor:
    return torch.where(shares >= floors, shares, 0.0)


def _floors(shares: Tensor, min_p: Tensor, throws: Sequence[Throw]) -> Tensor:
    """The least share of the most probable token's probability that stays, [rows, 1]."""
    floors = min_p.float()
    ranking = [row for row, each in enumerate(throws) if each.ranks]
    if not ranking:
        return floors
    rows = to_device(ranking, torch.int64, shares.device)
    ranked = _ranked_floors(shares[rows], floors[rows], [throws[row] for row in ranking])
    return floors.index_copy(0, rows, ranked)


def _ranked_floors(shares: Tensor, floors: Tensor, throws: Sequence[Throw]) -> Tensor:
    """floors, raised by top_k and top_p. Sorts the vocabulary where top_p needs it: asking whether less would have
    done means to wait."""
    vocab, device = shares.shape[-1], shares.device
    kept = [min(each.sampling.top_k or vocab, vocab) for each in throws]
    takes_top_p = any(each.sampling.top_p < 1.0 for each in throws)
    falling = shares.topk(vocab if takes_top_p else max(kept), dim=-1).values
    last = to_device(kept, torch.int64, device)[:, None] - 1
    floors = torch.maximum(floors, torch.where(last + 1 < vocab, falling.gather(1, last), 0.0))
    if not takes_top_p:
        return floors
    top_p = to_device([each.sampling.top_p for each in throws], torch.float64, device)[:, None]
    return torch.maximum(floors, _nucleus_floors(_cut(falling, floors), top_p))


def _nucleus_floors(falling: Tensor, top_p: Tensor) -> Tensor:
    """The share of the last token that belongs to top_p, from shares in falling order."""
    whole = _whole(falling)
    cumulative = whole.cumsum(dim=-1)
    stays = (cumulative - whole).double() < top_p * cumulative[:, -1:].double()
    last = stays.sum(dim=-1, keepdim=True).clamp(min=1) - 1
    return torch.where(top_p < 1.0, falling.gather(1, last), 0.0)
