"""One step's slices as tensors.

Decode rows come first, then the chunks of prompts, then padding (see layers/attention.py). All numbers go to the device
in one copy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine.graphs import FROM_HOST, HostBatch
from serving.engine.scheduler import COMING, Slice
from serving.layers.attention import PagedBatch, Span


@dataclass(frozen=True, slots=True)
class StepTensors:
    """token_ids and positions [rows]; sampled_rows: the rows after which a token is chosen, those of a slice together,
    slices in the order of `sampling`; the first row again as padding."""

    token_ids: Tensor
    positions: Tensor
    sampled_rows: Tensor
    batch: PagedBatch
    sampling: Sequence[Slice]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Tokens that the step before this one chose, still on the device; places by request id."""

    token_ids: Tensor
    places: Mapping[str, int]


def step_tensors(
    slices: Sequence[Slice],
    *,
    block_tokens: int,
    scratch_block: int,
    pad_to: int,
    device: torch.device,
    earlier: Earlier | None = None,
) -> StepTensors:
    """Lay the slices out one behind the other.

    scratch_block   where padding rows write their keys: a block that no table names.
    pad_to          rows become a multiple of it.
    earlier         where tokens that are still COMING come from.
    """
    ordered = [part for part in slices if part.is_decode]
    decode_rows = sum(len(part.token_ids) for part in ordered)
    chunks = [part for part in slices if not part.is_decode]
    numbers = _Numbers()
    for part in (*ordered, *chunks):
        numbers.add(part, block_tokens)
    numbers.pad(pad_to, scratch_block * block_tokens)
    sampled = numbers.sampled + [0] * (-len(numbers.sampled) % pad_to)
    widest = max((len(part.block_table) for part in ordered), default=0)
    tables = [block for part in ordered for block in _table_rows(part, widest)]
    contexts = [context for part in ordered for context in range(part.start + 1, part.end + 1)]
    blocks = [block for part in chunks for block in part.block_table[: _blocks(part, block_tokens)]]
    packed = _on_device(
        [numbers.token_ids, numbers.positions, numbers.slots, sampled, contexts, tables, blocks],
        device,
    )
    token_ids, positions, slots, sampled_rows, contexts_there, tables_there, blocks_there = packed
    _fill_in_coming(token_ids, numbers.coming, earlier)
    return StepTensors(
        token_ids=token_ids,
        positions=positions,
        sampled_rows=sampled_rows,
        batch=PagedBatch(
            slots=slots,
            tables=tables_there.to(torch.int32).view(decode_rows, widest),
            contexts=contexts_there.to(torch.int32),
            spans=list(_spans(chunks, decode_rows, blocks_there, block_tokens)),
        ),
        sampling=[part for part in (*ordered, *chunks) if part.samples],
    )


def decode_batch(
    slices: Sequence[Slice], *, block_tokens: int, places: Mapping[str, int]
) -> HostBatch:
    """The rows of slices that all decode. places: rows of the last step's tokens, by request id."""
    numbers = _Numbers()
    for part in slices:
        numbers.add(part, block_tokens)
    sources = [FROM_HOST] * len(numbers.token_ids)
    for row, request_id in numbers.coming:
        sources[row] = places[request_id]
    widest = max(len(part.block_table) for part in slices)
    tables = [block for part in slices for block in _table_rows(part, widest)]
    return HostBatch(
        token_ids=_int32s(numbers.token_ids),
        sources=_int32s(sources),
        positions=_int32s(numbers.positions),
        slots=_int32s(numbers.slots),
        contexts=_int32s(numbers.positions) + 1,
        tables=_int32s(tables).reshape(-1, widest),
    )


def _int32s(numbers: Sequence[int]) -> NDArray[np.int32]:
    return np.array(numbers, dtype=np.int32)


@dataclass(slots=True)
class _Numbers:
    """A step's rows, as lists. coming: (row, request id) of tokens that are not known here yet."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    coming: list[tuple[int, str]] = field(default_factory=list)

    def add(self, part: Slice, block_tokens: int) -> None:
        if part.token_ids[0] == COMING:
            self.coming.append((len(self.token_ids), part.request_id))
        self.token_ids += [max(token_id, 0) for token_id in part.token_ids]
        self.positions += range(part.start, part.end)
        self.slots += [
            part.block_table[position // block_tokens] * block_tokens + position % block_tokens
            for position in range(part.start, part.end)
        ]
        if part.samples:
            rows = len(self.token_ids)
            self.sampled += range(rows - 1 - part.drafts, rows)

    def pad(self, pad_to: int, slot: int) -> None:
        padding = -len(self.token_ids) % pad_to
        self.token_ids += [0] * padding
        self.positions += [0] * padding
        self.slots += [slot] * padding


def _blocks(part: Slice, block_tokens: int) -> int:
    return -(-part.end // block_tokens)


def _table_rows(part: Slice, width: int) -> list[int]:
    """The slice's table once for each of its rows."""
    row = [*part.block_table, *[0] * (width - len(part.block_table))]
    return row * len(part.token_ids)


def _on_device(lists: Sequence[Sequence[int]], device: torch.device) -> Sequence[Tensor]:
    """int64 tensors of the lists, copied at once."""
    flat = torch.tensor([number for numbers in lists for number in numbers], dtype=torch.int64)
    if device.type == "cuda":
        flat = flat.pin_memory()
    there = flat.to(device, non_blocking=True)
    return torch.split(there, [len(numbers) for numbers in lists])


def _fill_in_coming(
    token_ids: Tensor, coming: Sequence[tuple[int, str]], earlier: Earlier | None
) -> None:
    if not coming:
        return
    assert earlier is not None
    rows = [row for row, _ in coming]
    places = [earlier.places[request_id] for _, request_id in coming]
    rows_there, places_there = _on_device([rows, places], token_ids.device)
    token_ids.index_copy_(0, rows_there, earlier.token_ids.index_select(0, places_there))


def _spans(
    chunks: Sequence[Slice], first_row: int, blocks: Tensor, block_tokens: int
) -> Iterator[Span]:
    first_block = 0
    for part in chunks:
        rows, count = len(part.token_ids), _blocks(part, block_tokens)
        yield Span(
            first_row=first_row,
            rows=rows,
            context=part.end,
            blocks=blocks[first_block : first_block + count],
            prompt_tokens=part.prompt_tokens,
        )
        first_row += rows
        first_block += count
