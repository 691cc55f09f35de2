"""One step's slices as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serving.engine.scheduler import Slice
from serving.layers.attention import PagedBatch, Span, causal_mask


@dataclass(frozen=True, slots=True)
class StepTensors:
    """token_ids and positions [rows]; sampled_rows [slices that sample], each one's last row."""

    token_ids: Tensor
    positions: Tensor
    sampled_rows: Tensor
    batch: PagedBatch


def step_tensors(
    slices: Sequence[Slice],
    *,
    block_tokens: int,
    scratch_slot: int,
    pad_to: int,
    device: torch.device,
) -> StepTensors:
    """Lay the slices out one behind the other.

    scratch_slot   where padding rows write their keys: a slot that no table names.
    pad_to         rows become a multiple of it.
    """
    rows = [(token, part.start + i) for part in slices for i, token in enumerate(part.token_ids)]
    padding = -len(rows) % pad_to
    slots = [slot for part in slices for slot in _slots(part, block_tokens)]
    rows += [(0, 0)] * padding
    slots += [scratch_slot] * padding

    def on_device(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(device)

    return StepTensors(
        token_ids=on_device([token for token, _ in rows]),
        positions=on_device([position for _, position in rows]),
        sampled_rows=on_device(_sampled_rows(slices, pad_to)),
        batch=PagedBatch(slots=on_device(slots), spans=_spans(slices, block_tokens, device)),
    )


def _slots(part: Slice, block_tokens: int) -> list[int]:
    return [
        part.block_table[position // block_tokens] * block_tokens + position % block_tokens
        for position in range(part.start, part.end)
    ]


def _sampled_rows(slices: Sequence[Slice], pad_to: int) -> list[int]:
    """The last row of each slice that samples; the first row again as padding."""
    sampled: list[int] = []
    row = -1
    for part in slices:
        row += len(part.token_ids)
        sampled += [row] if part.samples else []
    return sampled + [0] * (-len(sampled) % pad_to)


def _spans(slices: Sequence[Slice], block_tokens: int, device: torch.device) -> list[Span]:
    spans: list[Span] = []
    row = 0
    for part in slices:
        count = len(part.token_ids)
        blocks = part.block_table[: -(-part.end // block_tokens)]
        spans.append(
            Span(
                first_row=row,
                rows=count,
                context=part.end,
                blocks=torch.tensor(blocks, dtype=torch.int64).to(device),
                mask=causal_mask(count, part.end, device),
            )
        )
        row += count
    return spans
