"""How far a changed model's answers are from the original's, token by token on text that neither has seen.

logits_of(model)                 what a model says of a whole sequence
compare(original, changed, …)    Quality: divergence, agreement, perplexity
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serving.layers.attention import LayerCache, PagedBatch, Span
from serving.models.decoder import Decoder

# token ids int64 [tokens] → logits [tokens, vocabulary]: what comes after each token
Logits = Callable[[Tensor], Tensor]

_TOKENS_AT_ONCE = 128  # of a vocabulary of fp32 logits, twice


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures over all predicted tokens of the sequences.

    mean_kl, p99_kl     Kullback-Leibler divergence of the changed model's next token from the original's, in nats
    top1_agreement      share of tokens where both would choose the same
    perplexity_ratio    the changed model's perplexity on the sequences over the original's
    """

    tokens: int
    mean_kl: float
    p99_kl: float
    top1_agreement: float
    perplexity_ratio: float


@torch.inference_mode()
def compare(original: Logits, changed: Logits, sequences: Sequence[Tensor]) -> Quality:
    """Both models on sequences of token ids, int64, each of two tokens at least; ValueError where there is none."""
    if not sequences or min(len(sequence) for sequence in sequences) < 2:
        raise ValueError("nothing to compare on: expected sequences of at least two tokens")
    kl, agree, loss = torch.cat([_of_sequence(original, changed, one) for one in sequences], dim=1)
    return Quality(
        tokens=len(kl),
        mean_kl=kl.mean().item(),
        p99_kl=kl.quantile(0.99).item(),
        top1_agreement=agree.mean().item(),
        perplexity_ratio=loss.mean().exp().item(),
    )


def _of_sequence(original: Logits, changed: Logits, token_ids: Tensor) -> Tensor:
    """fp64 [3, tokens − 1]: divergence, agreement and added loss of each prediction that has an answer."""
    answers = token_ids[1:]
    pairs = zip(
        torch.split(original(token_ids)[:-1], _TOKENS_AT_ONCE),
        torch.split(changed(token_ids)[:-1], _TOKENS_AT_ONCE),
        torch.split(answers, _TOKENS_AT_ONCE),
        strict=True,
    )
    return torch.cat([_of_tokens(*pair) for pair in pairs], dim=1)


def _of_tokens(original: Tensor, changed: Tensor, answers: Tensor) -> Tensor:
    before, after = (logits.double().log_softmax(-1) for logits in (original, changed))
    kl = (before.exp() * (before - after)).sum(-1)
    agree = before.argmax(-1) == after.argmax(-1)
    loss = (before - after).gather(-1, answers[:, None].to(before.device))[:, 0]
    return torch.stack((kl, agree.double(), loss)).cpu()


def logits_of(model: Decoder) -> Logits:
    """The model's own logits, computed in one step with a cache of its own for each sequence."""

    def logits(token_ids: Tensor) -> Tensor:
        count, device = len(token_ids), model.device
        rows = torch.arange(count, device=device)
        none = torch.zeros(0, 1, dtype=torch.int32, device=device)
        span = Span(0, count, count, torch.zeros(1, dtype=torch.int64, device=device), count)
        batch = PagedBatch(slots=rows, tables=none, contexts=none[:, 0], spans=[span])
        hidden = model(token_ids.to(device), rows, _one_block(model, count), batch)
        return model.logits(hidden)

    return logits


def _one_block(model: Decoder, tokens: int) -> list[LayerCache]:
    """A cache of one block that holds the whole sequence."""
    config = model.config
    shape = (1, tokens, config.num_key_value_heads, config.head_dim)

    def empty() -> Tensor:
        return torch.empty(shape, dtype=model.dtype, device=model.device)

    return [LayerCache(empty(), empty()) for _ in range(config.num_hidden_layers)]
