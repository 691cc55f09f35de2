"""One step's slices as numbers, and these as tensors.

Decode rows come first, then the chunks of prompts, then padding (see layers/attention.py). All numbers go to the device
in one copy.

    HostStep       the numbers of a step, from which any process that has the model can compute it
    host_step      these of slices; decode_batch: of slices that all decode
    step_tensors   on the device
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine.graphs import FROM_HOST, HostBatch, Int32s
from serving.engine.slices import COMING, Slice
from serving.layers.attention import PagedBatch, Span

Int64s = NDArray[np.int64]
_NOBODY: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Chunk:
    """`rows` tokens of a prompt of prompt_tokens, the last ones of `context` tokens."""

    rows: int
    context: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class HostStep:
    """Numbers of a step's rows, all int64.

    token_ids, positions, slots   [rows]
    sampled       rows after which a token is chosen, those of a slice together; the first row again as padding
    contexts      [decode rows]: keys that each sees; tables [decode rows, width]: their blocks
    blocks        of the chunks' contexts, one behind the other
    coming        [2, any]: rows whose token the step before this one chose, and its place there
    """

    token_ids: Int64s
    positions: Int64s
    slots: Int64s
    sampled: Int64s
    contexts: Int64s
    tables: Int64s
    blocks: Int64s
    chunks: Sequence[Chunk]
    coming: Int64s


@dataclass(frozen=True, slots=True)
class StepTensors:
    """token_ids and positions [rows]; sampled_rows: the rows after which a token is chosen."""

    token_ids: Tensor
    positions: Tensor
    sampled_rows: Tensor
    batch: PagedBatch


def host_step(
    slices: Sequence[Slice],
    *,
    block_tokens: int,
    scratch_block: int,
    pad_to: int,
    places: Mapping[str, int] = _NOBODY,
) -> HostStep:
    """Lay the slices out one behind the other.

    scratch_block   where padding rows write their keys: a block that no table names.
    pad_to          rows become a multiple of it.
    places          of the last step's tokens, by request id.
    """
    ordered = in_order(slices)
    decodes = [part for part in ordered if part.is_decode]
    chunks = ordered[len(decodes) :]
    numbers = _Numbers()
    for part in ordered:
        numbers.add(part, block_tokens)
    numbers.pad(pad_to, scratch_block * block_tokens)
    contexts = [context for part in decodes for context in range(part.start + 1, part.end + 1)]
    blocks = [block for part in chunks for block in part.block_table[: _blocks(part, block_tokens)]]
    return HostStep(
        token_ids=_int64s(numbers.token_ids),
        positions=_int64s(numbers.positions),
        slots=_int64s(numbers.slots),
        sampled=_int64s(numbers.sampled + [0] * (-len(numbers.sampled) % pad_to)),
        contexts=_int64s(contexts),
        tables=_tables(decodes).astype(np.int64),
        blocks=_int64s(blocks),
        chunks=[Chunk(len(part.token_ids), part.end, part.prompt_tokens) for part in chunks],
        coming=_int64s([(row, places[name]) for row, name in numbers.coming]).reshape(-1, 2).T,
    )


def in_order(slices: Sequence[Slice]) -> list[Slice]:
    """As their rows lie in a step."""
    return sorted(slices, key=lambda part: not part.is_decode)


def step_tensors(
    step: HostStep, *, block_tokens: int, device: torch.device, chosen: Tensor | None = None
) -> StepTensors:
    """The step on the device. chosen: the tokens of the step before it, of which `coming` names places."""
    token_ids, positions, slots, sampled_rows, contexts, tables, blocks, rows, places = _on_device(
        [
            *(step.token_ids, step.positions, step.slots, step.sampled, step.contexts),
            *(step.tables, step.blocks, *step.coming),
        ],
        device,
    )
    if len(rows):
        assert chosen is not None
        token_ids.index_copy_(0, rows, chosen.index_select(0, places))
    return StepTensors(
        token_ids=token_ids,
        positions=positions,
        sampled_rows=sampled_rows,
        batch=PagedBatch(
            slots=slots,
            tables=tables.to(torch.int32).view(step.tables.shape),
            contexts=contexts.to(torch.int32),
            spans=list(_spans(step.chunks, len(contexts), blocks, block_tokens)),
        ),
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
    return HostBatch(
        token_ids=_int32s(numbers.token_ids),
        sources=_int32s(sources),
        positions=_int32s(numbers.positions),
        slots=_int32s(numbers.slots),
        contexts=_int32s(numbers.positions) + 1,
        tables=_tables(slices),
    )


def _int32s(numbers: Sequence[int]) -> Int32s:
    return np.array(numbers, dtype=np.int32)


def _int64s(numbers: Sequence[int] | Sequence[tuple[int, int]]) -> Int64s:
    return np.array(numbers, dtype=np.int64)


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


def _tables(slices: Sequence[Slice]) -> Int32s:
    """[rows, widest]: each slice's table once for each of its rows."""
    rows = sum(len(part.token_ids) for part in slices)
    tables = np.zeros((rows, max((len(part.block_table) for part in slices), default=0)), np.int32)
    row = 0
    for part in slices:
        end = row + len(part.token_ids)
        tables[row:end, : len(part.block_table)] = part.block_table
        row = end
    return tables


def _on_device(arrays: Sequence[Int64s], device: torch.device) -> Sequence[Tensor]:
    """Flat int64 tensors of the arrays, copied at once."""
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        flat = flat.pin_memory()
    there = flat.to(device, non_blocking=True)
    return torch.split(there, [array.size for array in arrays])


def _spans(
    chunks: Sequence[Chunk], first_row: int, blocks: Tensor, block_tokens: int
) -> Iterator[Span]:
    first_block = 0
    for chunk in chunks:
        count = -(-chunk.context // block_tokens)
        yield Span(
            first_row=first_row,
            rows=chunk.rows,
            context=chunk.context,
            blocks=blocks[first_block : first_block + count],
            prompt_tokens=chunk.prompt_tokens,
        )
        first_row += chunk.rows
        first_block += count
