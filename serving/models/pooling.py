"""From hidden rows of texts to one vector a text; and a decoder as the encoder of an embedding model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from serving.layers.attention import LayerCache, PagedBatch, Span
from serving.models.decoder import Decoder

_BLOCK_TOKENS = 16

# Hidden rows [tokens, size] of one text → its vector [size]. Names are those of sentence-transformers.
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
}


def hidden_of_texts(decoder: Decoder, texts: Sequence[Sequence[int]]) -> Tensor:
    """[rows, hidden_size] of texts in token ids, none of them empty, one behind the other.

    No layer needs the keys of another, so all of them write to one cache.
    """
    device, config = decoder.device, decoder.config
    blocks = [-(-len(text) // _BLOCK_TOKENS) for text in texts]
    shape = (sum(blocks), _BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)
    keys, values = (torch.empty(shape, dtype=decoder.dtype, device=device) for _ in range(2))
    cache = LayerCache(keys, values)
    positions = torch.cat([torch.arange(len(text)) for text in texts]).to(device)
    token_ids = torch.tensor([token_id for text in texts for token_id in text], device=device)
    batch = _whole_texts([len(text) for text in texts], blocks, device)
    return decoder(token_ids, positions, [cache] * config.num_hidden_layers, batch)  # type: ignore[no-any-return]


def _whole_texts(lengths: Sequence[int], blocks: Sequence[int], device: torch.device) -> PagedBatch:
    """Each text is a span that begins a block."""
    spans, slots = [], []
    first_row = first_block = 0
    for length, count in zip(lengths, blocks, strict=True):
        table = torch.arange(first_block, first_block + count, device=device)
        spans.append(Span(first_row, length, length, table, length))
        slots.append(torch.arange(length) + first_block * _BLOCK_TOKENS)
        first_row, first_block = first_row + length, first_block + count
    nothing = torch.zeros(0, dtype=torch.int32, device=device)
    return PagedBatch(torch.cat(slots).to(device), nothing.view(0, 0), nothing, spans)
