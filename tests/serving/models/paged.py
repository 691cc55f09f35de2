"""Steps of a decoder through a paged cache, without an engine."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from serving.layers.attention import LayerCache, PagedBatch, Span
from serving.models.decoder import Decoder

BLOCK_TOKENS = 4


class InBlocks:
    """One sequence in blocks that lie in no order."""

    def __init__(self, model: Decoder, tokens: int, seed: int, prompt_tokens: int = 0) -> None:
        self.model, self.prompt_tokens = model, prompt_tokens
        count = -(-tokens // BLOCK_TOKENS)
        self.blocks = random.Random(seed).sample(range(count + 3), count)
        config = model.config
        shape = (count + 3, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
        self.caches = [
            LayerCache(*(torch.full(shape, torch.nan, dtype=model.dtype) for _ in range(2)))
            for _ in range(config.num_hidden_layers)
        ]
        self.length = 0

    def step(self, token_ids: Sequence[int], *, decodes: bool) -> Tensor:
        """Logits [rows, vocab] of the next tokens: as one chunk of a prompt, or as decode rows."""
        first, end = self.length, self.length + len(token_ids)
        positions = torch.arange(first, end)
        table = torch.tensor(self.blocks)
        batch = PagedBatch(
            slots=table[positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS,
            tables=table.int().expand(len(positions) if decodes else 0, -1).contiguous(),
            contexts=(positions + 1).int() if decodes else torch.zeros(0, dtype=torch.int32),
            spans=[] if decodes else [self._span(first, end)],
        )
        self.length = end
        with torch.inference_mode():
            hidden = self.model(torch.tensor(token_ids), positions, self.caches, batch)
            return self.model.logits(hidden)

    def _span(self, first: int, end: int) -> Span:
        blocks = torch.tensor(self.blocks[: -(-end // BLOCK_TOKENS)])
        return Span(0, end - first, end, blocks, self.prompt_tokens)


def logits_in_steps(model: Decoder, token_ids: Sequence[int], chunks: Sequence[int]) -> Tensor:
    """Logits of every token: the first ones in chunks of a prompt, the others one by one."""
    sequence = InBlocks(model, len(token_ids), len(token_ids), sum(chunks))
    steps, first = [], 0
    for length in chunks:
        steps.append(sequence.step(token_ids[first : first + length], decodes=False))
        first += length
    steps += [sequence.step([token_id], decodes=True) for token_id in token_ids[first:]]
    return torch.cat(steps)
