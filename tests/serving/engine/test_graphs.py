"""Decode steps with padding, as a GPU's graphs run them; here each run calls the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from serving.engine.graphs import FROM_HOST, DecodeGraphs, HostBatch, buckets_up_to
from serving.layers.attention import LayerCache, PagedBatch
from serving.weights import LoadedModel

VOCABULARY = 50
MAX_REQUESTS, MAX_BLOCKS, BLOCK_TOKENS = 11, 6, 4
SCRATCH_BLOCK = 90


@dataclass
class Listener:
    """A model whose next token is a rule of what it was given; it keeps the last step's rows."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    batch: PagedBatch | None = None

    def __call__(
        self, token_ids: Tensor, positions: Tensor, _caches: Sequence[LayerCache], batch: PagedBatch
    ) -> Tensor:
        self.token_ids, self.positions, self.batch = token_ids.tolist(), positions.tolist(), batch
        return torch.stack((token_ids, positions), dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        likeliest = following(hidden[:, 0], hidden[:, 1])
        return torch.nn.functional.one_hot(likeliest, VOCABULARY).float()


def following(token_ids: Tensor, positions: Tensor) -> Tensor:
    return (7 * token_ids + positions + 3) % VOCABULARY


def graphs_of(model: Listener) -> DecodeGraphs:
    graphs = DecodeGraphs(
        model,
        [],
        max_requests=MAX_REQUESTS,
        max_blocks=MAX_BLOCKS,
        block_tokens=BLOCK_TOKENS,
        scratch_slot=SCRATCH_BLOCK * BLOCK_TOKENS,
    )
    graphs.capture()
    return graphs


def int32s(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


@st.composite
def batches(draw: st.DrawFn) -> HostBatch:
    rows = draw(st.integers(1, MAX_REQUESTS))
    width = draw(st.integers(1, MAX_BLOCKS))
    numbers = np.random.default_rng(draw(st.integers(0, 2**16)))
    contexts = numbers.integers(1, width * BLOCK_TOKENS + 1, rows)
    columns = {
        "token_ids": numbers.integers(0, VOCABULARY, rows),
        "sources": np.full(rows, FROM_HOST),
        "positions": contexts - 1,
        "slots": numbers.integers(0, SCRATCH_BLOCK * BLOCK_TOKENS, rows),
        "contexts": contexts,
        "tables": numbers.integers(0, SCRATCH_BLOCK, (rows, width)),
    }
    return HostBatch(**{name: column.astype(np.int32) for name, column in columns.items()})


@given(st.lists(batches(), min_size=1, max_size=5))
def test_every_row_reaches_the_model_as_it_was_given(several: list[HostBatch]) -> None:
    """Also where a batch before was larger, and left its numbers behind."""
    model = Listener()
    graphs = graphs_of(model)
    for batch in several:
        rows, width = batch.tables.shape
        decoded = graphs.run(batch)
        assert model.batch is not None
        assert len(model.token_ids) in graphs.buckets
        assert model.token_ids[:rows] == batch.token_ids.tolist()
        assert model.positions[:rows] == batch.positions.tolist()
        assert model.batch.slots[:rows].tolist() == batch.slots.tolist()
        assert model.batch.contexts[:rows].tolist() == batch.contexts.tolist()
        assert model.batch.tables[:rows, :width].tolist() == batch.tables.tolist()
        wanted = following(torch.tensor(batch.token_ids), torch.tensor(batch.positions))
        assert decoded.token_ids.tolist() == wanted.tolist()
        assert len(decoded.hidden) == len(decoded.logits) == rows


@given(st.lists(batches(), min_size=1, max_size=4))
def test_padding_writes_to_scratch_and_sees_only_itself(several: list[HostBatch]) -> None:
    model = Listener()
    graphs = graphs_of(model)
    for batch in several:
        rows = len(batch.tables)
        graphs.run(batch)
        assert model.batch is not None
        padding = len(model.token_ids) - rows
        assert padding < 8
        assert model.batch.slots[rows:].tolist() == [SCRATCH_BLOCK * BLOCK_TOKENS] * padding
        assert model.batch.contexts[rows:].tolist() == [1] * padding
        assert model.batch.tables[rows:, 0].tolist() == [SCRATCH_BLOCK] * padding


@given(batches(), st.randoms(use_true_random=False))
def test_tokens_of_the_last_step_need_not_come_to_the_host(batch: HostBatch, dice: object) -> None:
    """The next step's rows stand in another order, and one of them is new."""
    model = Listener()
    graphs = graphs_of(model)
    first = graphs.run(batch).token_ids.tolist()
    sources = [*range(len(first))]
    dice.shuffle(sources)  # type: ignore[attr-defined]
    sources[0] = FROM_HOST
    batch = replace(batch, token_ids=np.full_like(batch.token_ids, 41), sources=int32s(*sources))
    graphs.run(batch)
    wanted = [41 if source == FROM_HOST else first[source] for source in sources]
    assert model.token_ids[: len(wanted)] == wanted


def test_tokens_that_were_drawn_are_remembered_instead_of_the_most_probable() -> None:
    model = Listener()
    graphs = graphs_of(model)
    graphs.remember(torch.tensor([5, 6, 7]))
    rows = int32s(0, 0)
    graphs.run(HostBatch(rows, int32s(2, 0), rows, rows, rows + 1, np.zeros((2, 1), np.int32)))
    assert model.token_ids == [7, 5]


def test_small_batches_are_padded_little() -> None:
    assert buckets_up_to(1) == (1,)
    assert buckets_up_to(6) == (1, 2, 4, 6)
    assert buckets_up_to(20) == (1, 2, 4, 8, 16, 20)
    assert buckets_up_to(32) == (1, 2, 4, 8, 16, 24, 32)


@given(st.integers(1, 300))
def test_every_batch_has_a_bucket(max_requests: int) -> None:
    buckets = buckets_up_to(max_requests)
    assert buckets[-1] == max_requests
    gaps = [high - low for low, high in pairwise(buckets)]
    assert max(gaps, default=0) <= 8


def test_a_batch_that_is_too_large_is_refused() -> None:
    graphs = graphs_of(Listener())
    row = int32s(0)
    wide = HostBatch(row, row - 1, row, row, row + 1, np.zeros((1, MAX_BLOCKS + 1), np.int32))
    assert not graphs.has_room_for(1, MAX_BLOCKS + 1)
    with pytest.raises(ValueError, match="1 rows with tables of 7 blocks"):
        graphs.run(wide)


def test_graphs_are_made_before_the_first_step() -> None:
    graphs = DecodeGraphs(
        Listener(), [], max_requests=2, max_blocks=1, block_tokens=4, scratch_slot=8
    )
    row = int32s(0)
    with pytest.raises(ValueError, match="call capture"):
        graphs.run(HostBatch(row, row - 1, row, row, row + 1, np.zeros((1, 1), np.int32)))


@torch.inference_mode()
def test_a_real_model_answers_as_without_padding(tiny: LoadedModel) -> None:
    """Three sequences, decoded for some steps, each from its own tokens of the step before."""
    config = tiny.config
    shape = (4 * 3 + 1, 4, config.num_key_value_heads, config.head_dim)
    ours, theirs = (
        [
            LayerCache(torch.zeros(shape), torch.zeros(shape))
            for _ in range(config.num_hidden_layers)
        ]
        for _ in range(2)
    )
    graphs = DecodeGraphs(
        tiny.model, ours, max_requests=8, max_blocks=4, block_tokens=4, scratch_slot=4 * 12
    )
    assert graphs.capture().graphs == 0  # none on a CPU
    tables = np.arange(12, dtype=np.int32).reshape(3, 4)
    tokens, sources = torch.tensor([3, 77, 200]), int32s(-1, -1, -1)
    for step in range(9):
        contexts = np.full(3, step + 1, dtype=np.int32)
        slots = tables[:, step // 4] * 4 + step % 4
        host = HostBatch(
            tokens.numpy().astype(np.int32), sources, contexts - 1, slots, contexts, tables
        )
        decoded = graphs.run(host)
        plain = PagedBatch(
            slots=torch.tensor(slots).long(),
            tables=torch.tensor(tables),
            contexts=torch.tensor(contexts),
            spans=(),
        )
        hidden = tiny.model(tokens, torch.full((3,), step), theirs, plain)
        logits = tiny.model.logits(hidden)
        torch.testing.assert_close(decoded.logits, logits, atol=1e-4, rtol=1e-4)
        assert decoded.token_ids.tolist() == logits.argmax(-1).tolist()
        tokens, sources = logits.argmax(-1), int32s(0, 1, 2)
