"""The next token of each row of logits.

The order is vLLM's (vllm/v1/sample/sampler.py, its docstring): logit bias, repetition penalty, frequency and presence
penalty, and what the constraint forbids; then the greedy choice, or temperature, min_p, top_k, top_p and the dice
(draw.py). log probabilities are those before the temperature, vLLM's "processed_logprobs" of a greedy row, since what
a client compares them for is the model's opinion under its penalties. Penalties are vLLM's too
(vllm/model_executor/layers/utils.py): repetition (arXiv:1909.05858) divides positive logits and multiplies negative
ones, over prompt and answer; frequency and presence are OpenAI's, over the answer only.

    choose   the tokens of a step; it waits for nothing on a GPU, and a row's choice does not depend on its neighbours
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine.request import SamplingParams, TokenLogprob
from serving.sampling.draw import Throw, dice_throw, draw_on_device, sent, to_device
from serving.sampling.draw_cpu import draw_on_cpu


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One token to choose.

    position        of the token in the answer, from 0; with seed it fixes the dice
    history         prompt and answer so far; only read where there are penalties
    prompt_tokens   how many of history are the prompt
    mask            int32 [ceil(vocab / 32)], a bit a token, lowest first: what the constraint allows; None: everything.
                    On the CPU. Tokens behind its end are forbidden.
    """

    sampling: SamplingParams
    seed: int
    position: int
    history: Sequence[int] = ()
    prompt_tokens: int = 0
    mask: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the greatest logit is the whole answer."""
        wishes = self.sampling
        return wishes.greedy and not self.is_edited and wishes.logprobs is None

    @property
    def is_edited(self) -> bool:
        return self.mask is not None or bool(self.sampling.logit_bias) or self.is_penalized

    @property
    def is_penalized(self) -> bool:
        wishes = self.sampling
        return bool(wishes.presence_penalty or wishes.frequency_penalty) or (
            wishes.repetition_penalty != 1.0
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reported:
    """Log probabilities of the rows that ask for them, on the logits' device.

    rows     which ones; counts, how many of the most probable tokens each wants
    chosen   fp32 [rows], of the token that was chosen; top int64 and top_logprobs fp32 [rows, most of counts]
    """

    rows: tuple[int, ...]
    counts: tuple[int, ...]
    chosen: Tensor
    top: Tensor
    top_logprobs: Tensor

    def to_host(self) -> "Reported":
        tensors = (_to_host(each) for each in (self.chosen, self.top, self.top_logprobs))
        return Reported(self.rows, self.counts, *tensors)

    def told(self, token_ids: Sequence[int]) -> Iterator[tuple[int, TokenLogprob]]:
        """(row, what to report of it). Tokens that can't be are never among the most probable."""
        tops = zip(self.top.tolist(), self.top_logprobs.tolist(), strict=True)
        each = zip(self.rows, self.counts, self.chosen.tolist(), tops, strict=True)
        for row, count, logprob, (ids, values) in each:
            pairs = zip(ids[:count], values[:count], strict=True)
            top = tuple((token_id, value) for token_id, value in pairs if value > -math.inf)
            yield row, TokenLogprob(token_ids[row], logprob, top)


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """token_ids int64 [rows], on the device of the logits."""

    token_ids: Tensor
    reported: tuple[Reported, ...] = ()

    def to_host(self) -> "Chosen":
        """The same in pinned memory, waiting for nothing: it may be read after an event that is recorded now."""
        reported = tuple(each.to_host() for each in self.reported)
        return Chosen(_to_host(self.token_ids), reported)

    def logprobs(self) -> list[TokenLogprob | None]:
        """One for each row, None where it did not ask. Waits for the device where the numbers still lie there."""
        token_ids: list[int] = self.token_ids.tolist()
        told = dict(pair for each in self.reported for pair in each.told(token_ids))
        return [told.get(row) for row in range(len(token_ids))]


def choose(logits: Tensor, rows: Sequence[Row]) -> Chosen:
    """The next token of each of rows, from logits [rows, vocab] of any floating type, which stay as they are."""
    plain = [index for index, row in enumerate(rows) if row.is_plain]
    if len(plain) == len(rows):
        return Chosen(_greatest(logits))
    parts = [(plain, Chosen(_greatest(_rows_of(logits, plain))))] if plain else []
    others = [index for index, row in enumerate(rows) if not row.is_plain]
    # On a CPU one by one, so that a row's numbers stay in its cache; on a GPU together.
    groups = [[index] for index in others] if logits.device.type == "cpu" else [others]
    for group in groups:
        chosen = choose_together(_rows_of(logits, group), [rows[index] for index in group])
        parts.append((group, chosen))
    return _joined(parts)


def _joined(parts: Sequence[tuple[Sequence[int], Chosen]]) -> Chosen:
    reported = tuple(
        replace(each, rows=tuple(rows[row] for row in each.rows))
        for rows, chosen in parts
        for each in chosen.reported
    )
    return Chosen(_merged(*((rows, chosen.token_ids) for rows, chosen in parts)), reported)


def choose_together(logits: Tensor, rows: Sequence[Row]) -> Chosen:
    """What choose() does with a GPU's rows that want more than the greatest logit: all by the same operations."""
    is_edited = any(row.is_edited for row in rows)
    scores = logits.to(torch.float32, copy=is_edited, memory_format=torch.contiguous_format)
    _edit(scores, rows)
    token_ids = _pick(scores, rows)
    return Chosen(token_ids, _report(scores, token_ids, rows))


def _pick(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    greedy = [index for index, row in enumerate(rows) if row.sampling.greedy]
    dicing = [index for index, row in enumerate(rows) if not row.sampling.greedy]
    picked = []
    if greedy:
        picked.append((greedy, _greatest(_rows_of(scores, greedy))))
    if dicing:
        throws = [_throw(rows[index]) for index in dicing]
        picked.append((dicing, _draw(_rows_of(scores, dicing), throws)))
    return _merged(*picked)


def _throw(row: Row) -> Throw:
    return Throw(row.sampling, dice_throw(row.seed, row.position))


def _draw(scores: Tensor, throws: Sequence[Throw]) -> Tensor:
    if scores.device.type != "cpu":
        return draw_on_device(scores, throws)
    drawn = [draw_on_cpu(row, throw) for row, throw in zip(scores, throws, strict=True)]
    return torch.tensor(drawn, dtype=torch.int64)


def _greatest(logits: Tensor) -> Tensor:
    """The first of the greatest of each row."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)
    # numpy finds it ten times as fast as torch, which goes one number at a time where they are bfloat16
    return torch.from_numpy(logits.float().numpy().argmax(axis=-1))


def _rows_of(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    if len(indices) == len(tensor):
        return tensor
    if len(indices) == 1:
        return tensor[indices[0] :][:1]
    return tensor.index_select(0, to_device(indices, torch.int64, tensor.device))


def _merged(*parts: tuple[Sequence[int], Tensor]) -> Tensor:
    """Token ids in the order of their rows, from (rows, token ids) that are all rows together."""
    rows = [row for indices, _ in parts for row in indices]
    token_ids = torch.cat([ids for _, ids in parts])
    if rows == sorted(rows):
        return token_ids
    return torch.empty_like(token_ids).index_copy_(
        0, to_device(rows, torch.int64, token_ids.device), token_ids
    )


def _edit(scores: Tensor, rows: Sequence[Row]) -> None:
    _add_bias(scores, rows)
    _penalize(scores, [(index, row) for index, row in enumerate(rows) if row.is_penalized])
    _forbid(scores, rows)


def _add_bias(scores: Tensor, rows: Sequence[Row]) -> None:
    vocab = scores.shape[-1]
    biases = {
        index * vocab + token_id: bias
        for index, row in enumerate(rows)
        for token_id, bias in row.sampling.logit_bias
        if 0 <= token_id < vocab  # else it would fall on the neighbour's tokens
    }
    if biases:
        places = to_device(tuple(biases), torch.int64, scores.device)
        amounts = to_device(tuple(biases.values()), torch.float32, scores.device)
        scores.view(-1).index_add_(0, places, amounts)


def _penalize(scores: Tensor, penalized: Sequence[tuple[int, Row]]) -> None:
    """Touches only the tokens that were seen, so a long vocabulary costs nothing."""
    if not penalized:
        return
    seen = [_seen(row, index * scores.shape[-1]) for index, row in penalized]
    columns = torch.from_numpy(np.concatenate(seen, axis=1))
    places, factors, fees = sent(columns, scores.device)
    flat, places = scores.view(-1), places.long()
    were = flat[places]
    repeated = torch.where(were > 0, were / factors.float(), were * factors.float())
    flat.index_copy_(0, places, repeated - fees.float())


def _seen(row: Row, first_place: int) -> NDArray[np.float64]:
    """For each token that history holds: its place, what divides or multiplies it, what is taken off it. [3, tokens]"""
    history = np.asarray(row.history, dtype=np.int64)
    token_ids, kinds = np.unique(history, return_inverse=True)
    counts = np.bincount(kinds[row.prompt_tokens :], minlength=len(token_ids))
    wishes = row.sampling
    fees = wishes.frequency_penalty * counts + wishes.presence_penalty * (counts > 0)
    factors = np.full(len(token_ids), wishes.repetition_penalty)
    return np.stack([first_place + token_ids, factors, fees])


def _forbid(scores: Tensor, rows: Sequence[Row]) -> None:
    for index, row in enumerate(rows):
        if row.mask is not None:
            bits = row.mask.numpy().view(np.uint8)
            allowed = np.unpackbits(bits, count=scores.shape[-1], bitorder="little")
            forbidden = sent(torch.from_numpy(allowed == 0), scores.device)
            scores[index].masked_fill_(forbidden, -torch.inf)


def _report(scores: Tensor, token_ids: Tensor, rows: Sequence[Row]) -> tuple[Reported, ...]:
    asking = [index for index, row in enumerate(rows) if row.sampling.logprobs is not None]
    if not asking:
        return ()
    counts = tuple(rows[index].sampling.logprobs or 0 for index in asking)
    logprobs = torch.log_softmax(_rows_of(scores, asking), dim=-1)
    chosen = logprobs.gather(1, _rows_of(token_ids, asking)[:, None])[:, 0]
    top = logprobs.topk(min(max(counts), scores.shape[-1]), dim=-1)
    return (Reported(tuple(asking), counts, chosen, top.indices, top.values),)


def _to_host(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)


__all__ = ["Chosen", "Row", "choose", "choose_together", "dice_throw"]
