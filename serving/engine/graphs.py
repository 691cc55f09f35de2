"""The decode step as one launch.

A step of decode rows alone is the same few hundred small kernels every time; for a small model, launching them one by one
takes longer than they do. So the whole step, from token ids to the most probable next ones, is captured in CUDA graphs, one
for each size of a batch, and a step copies its numbers to where the graph reads them and replays it.

    HostBatch       one step's rows, as numbers on the host
    DecodeGraphs    captures and replays; where there is no GPU it calls the model, with the same padding
    Decoded         what comes back: tensors on the device, nothing to wait for

How a runner uses it:

    graphs = DecodeGraphs(model, caches, max_requests=…, max_blocks=…, block_tokens=…, scratch_slot=…)
    logger.info("captured %s", graphs.capture())                     # once, before the first request
    ...
    if every slice decodes and graphs.has_room_for(rows, width):     # else: the model as before, then graphs.remember(ids)
        decoded = graphs.run(batch)
        # All greedy: decoded.token_ids are the answer, and remembered already. Otherwise:
        graphs.remember(choose(decoded.logits, rows).token_ids)

With steps that overlap, the next step is planned before the tokens of this one have reached the host: its rows name in
`sources` which row of the last step their token came from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.layers.attention import LayerCache, PagedBatch

Int32s = NDArray[np.int32]

FROM_HOST = -1  # a row's source, where its token id is known on the host

_NUMBERS_OF_A_ROW = 5  # beside its table
_WARM_UPS = 2  # before a capture: libraries and kernels set themselves up in the first run


class DecodeModel(Protocol):
    """What is captured."""

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self,
        token_ids: Tensor,
        positions: Tensor,
        caches: Sequence[LayerCache],
        batch: PagedBatch,
        /,
    ) -> Tensor: ...

    def logits(self, hidden: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class HostBatch:
    """Decode rows, all int32.

    token_ids    [rows]: what each row computes, where sources says FROM_HOST; else anything.
    sources      [rows]: FROM_HOST, or the row of the last step whose token this row computes.
    positions    [rows]: of that token in its sequence.
    slots        [rows]: block · block_tokens + offset where its key and value go.
    contexts     [rows]: keys that it sees, its own included.
    tables       [rows, width]: the blocks of each context in order; what lies behind is never read.
    """

    token_ids: Int32s
    sources: Int32s
    positions: Int32s
    slots: Int32s
    contexts: Int32s
    tables: Int32s


@dataclass(frozen=True, slots=True)
class Decoded:
    """A row each, on the device: hidden [rows, hidden_size], logits [rows, vocab_size], and token_ids int64 [rows], the
    most probable next ones. The next run() overwrites them."""

    hidden: Tensor
    logits: Tensor
    token_ids: Tensor


@dataclass(frozen=True, slots=True)
class Captured:
    """How many graphs there are, and how long it took to make them."""

    graphs: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.graphs} decode graphs in {self.seconds:.1f} s"


def buckets_up_to(max_requests: int) -> tuple[int, ...]:
    """Sizes of batches that get a graph: 1, 2, 4, then multiples of 8 and the largest itself.

    A batch is padded to the next one, which costs at most 7 rows: with the weights read once for all, next to nothing.
    """
    sizes = {1, 2, 4, *range(8, max_requests, 8), max_requests}
    return tuple(sorted(size for size in sizes if size <= max_requests))


class DecodeGraphs:
    """Decode steps of a model over its caches.

    max_blocks     the widest table of a row.
    scratch_slot   the first slot of a block that no table names: where padding rows write, and the one key that they see.
    buckets        sizes of batches, rising, max_requests the last; None takes buckets_up_to(max_requests).
    captures       False calls the model at each run; None captures on a GPU and calls elsewhere.

    Not for several threads at once. Steps run on the current stream, one behind the other.
    """

    def __init__(
        self,
        model: DecodeModel,
        caches: Sequence[LayerCache],
        *,
        max_requests: int,
        max_blocks: int,
        block_tokens: int,
        scratch_slot: int,
        buckets: Sequence[int] | None = None,
        captures: bool | None = None,
    ) -> None:
        self.buckets = buckets or buckets_up_to(max_requests)
        self.max_blocks = max_blocks
        self._model, self._caches = model, caches
        self._scratch_slot, self._scratch_block = scratch_slot, scratch_slot // block_tokens
        self._captures = model.device.type == "cuda" if captures is None else captures
        numbers = max_requests * (_NUMBERS_OF_A_ROW + max_blocks)
        self._inputs = torch.zeros(numbers, dtype=torch.int32, device=model.device)
        self._sampled = torch.zeros(max_requests, dtype=torch.int64, device=model.device)
        self._staging = [_Staging(numbers, pinned=self._captures) for _ in range(2)]
        self._replays: dict[int, Callable[[], Decoded]] = {}

    @torch.inference_mode()
    def capture(self) -> Captured:
        """Make the graphs, the largest first: the others find room in its memory. Before the first run()."""
        began = time.perf_counter()
        pool = torch.cuda.graph_pool_handle() if self._captures else None
        for size in reversed(self.buckets):
            self._send(_no_rows(), size)
            self._replays[size] = self._recorded(size, pool) if self._captures else self._call(size)
        return Captured(len(self._replays) if self._captures else 0, time.perf_counter() - began)

    def has_room_for(self, rows: int, width: int) -> bool:
        """Whether a batch of so many rows, with tables of this width, can run."""
        return 0 < rows <= self.buckets[-1] and width <= self.max_blocks

    @torch.inference_mode()
    def run(self, batch: HostBatch) -> Decoded:
        """Launch one step; returns at once. Raises ValueError where has_room_for() is False or capture() has not been called."""
        rows, width = batch.tables.shape
        if not self.has_room_for(rows, width):
            raise ValueError(
                f"{rows} rows with tables of {width} blocks; "
                f"expected 1 to {self.buckets[-1]} rows and at most {self.max_blocks} blocks"
            )
        if not self._replays:
            raise ValueError("no graphs yet; call capture() before the first run()")
        size = next(size for size in self.buckets if size >= rows)
        self._send(batch, size)
        decoded = self._replays[size]()
        return Decoded(decoded.hidden[:rows], decoded.logits[:rows], decoded.token_ids[:rows])

    def remember(self, token_ids: Tensor) -> None:
        """The last step's tokens [rows], on the device, are these: what `sources` of the next batch name."""
        self._sampled[: len(token_ids)].copy_(token_ids)

    def _send(self, batch: HostBatch, size: int) -> None:
        """One copy to the device, behind the step that may still read the numbers before."""
        staging = self._staging[0]
        self._staging.reverse()
        used = size * (_NUMBERS_OF_A_ROW + self.max_blocks)
        with staging.filled() as numbers:
            self._pack(batch, numbers[: size * _NUMBERS_OF_A_ROW].reshape(-1, size))
            tables = numbers[size * _NUMBERS_OF_A_ROW : used].reshape(size, -1)
            rows, width = batch.tables.shape
            tables[:rows, :width] = batch.tables
            tables[rows:, 0] = self._scratch_block
            self._inputs[:used].copy_(staging.tensor[:used], non_blocking=True)

    def _pack(self, batch: HostBatch, numbers: Int32s) -> None:
        columns = (
            (batch.token_ids, 0),
            (batch.sources, FROM_HOST),
            (batch.positions, 0),
            (batch.slots, self._scratch_slot),
            (batch.contexts, 1),
        )
        for packed, (given, padding) in zip(numbers, columns, strict=True):
            packed[: len(given)] = given
            packed[len(given) :] = padding

    def _decode(self, size: int) -> Decoded:
        """The step itself, from the numbers on the device; it reads nothing back."""
        numbers = self._inputs[: size * _NUMBERS_OF_A_ROW].view(-1, size)
        token_ids, sources, positions, slots, contexts = numbers.unbind()
        used = size * (_NUMBERS_OF_A_ROW + self.max_blocks)
        tables = self._inputs[size * _NUMBERS_OF_A_ROW : used].view(size, -1)
        sampled = self._sampled.index_select(0, sources.clamp(min=0).long())
        token_ids = torch.where(sources == FROM_HOST, token_ids.long(), sampled)
        batch = PagedBatch(slots=slots.long(), tables=tables, contexts=contexts, spans=())
        hidden = self._model(token_ids, positions.long(), self._caches, batch)
        logits = self._model.logits(hidden)
        most_probable = logits.argmax(dim=-1)
        self._sampled[:size].copy_(most_probable)
        return Decoded(hidden, logits, most_probable)

    def _call(self, size: int) -> Callable[[], Decoded]:
        return lambda: self._decode(size)

    def _recorded(self, size: int, pool: Any) -> Callable[[], Decoded]:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self._decode(size)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the device meanwhile, and are none of the capture's business.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            decoded = self._decode(size)

        def replay() -> Decoded:
            graph.replay()
            return decoded

        return replay


class _Staging:
    """Numbers on their way to the device. Two take turns: one is filled while the other may still be under way."""

    def __init__(self, numbers: int, *, pinned: bool) -> None:
        self.tensor = torch.zeros(numbers, dtype=torch.int32, pin_memory=pinned)
        self._numbers: Int32s = self.tensor.numpy()
        self._sent = _event() if pinned else None

    @contextmanager
    def filled(self) -> Iterator[Int32s]:
        """The numbers, as soon as they are nobody's; what is sent inside the `with` is waited for the next time."""
        if self._sent is not None:
            self._sent.synchronize()
        yield self._numbers
        if self._sent is not None:
            self._sent.record()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _no_rows() -> HostBatch:
    none = np.zeros(0, dtype=np.int32)
    return HostBatch(none, none, none, none, none, np.zeros((0, 0), dtype=np.int32))
