"""Steps with decode rows, spans and padding over a paged cache, and what attention should make of them."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from serving.layers.attention import LayerCache, PagedBatch, Span

BLOCK_TOKENS = 4
# Relative to the largest value: bf16 keeps 8 bits, int8 is off by half a code of 127 in keys and in values. Histories
# for e4m3 are numbers that it has.
TOLERANCE = {
    torch.float32: 2e-6,
    torch.bfloat16: 1e-2,
    torch.int8: 3e-2,
    torch.float8_e4m3fn: 1e-2,
}


@dataclass(frozen=True)
class Case:
    """contexts of the decode rows; spans as (rows, context); padding rows; heads = group · kv_heads."""

    contexts: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    padding: int
    kv_heads: int
    group: int
    head_dim: int
    window: int | None
    dtype: torch.dtype
    cache_dtype: torch.dtype
    seed: int

    @property
    def sequences(self) -> list[tuple[int, int]]:
        """Rows and context, of decode rows and spans."""
        return [(1, context) for context in self.contexts] + list(self.spans)

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.sequences) + self.padding


_dtypes = st.sampled_from(
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.int8),
        (torch.float32, torch.int8),
        (torch.bfloat16, torch.float8_e4m3fn),
    ]
)


@st.composite
def cases(draw: st.DrawFn, longest: int = 70) -> Case:
    contexts = draw(st.lists(st.integers(1, longest), max_size=5))
    spans = draw(st.lists(st.tuples(st.integers(2, 9), st.integers(0, longest)), max_size=2))
    dtype, cache_dtype = draw(_dtypes)
    return Case(
        contexts=tuple(contexts),
        spans=tuple((rows, rows + before) for rows, before in spans),
        padding=draw(st.integers(0, 3)),
        kv_heads=draw(st.sampled_from([1, 2, 3])),
        group=draw(st.sampled_from([1, 3, 4, 9])),
        head_dim=draw(st.sampled_from([8, 24, 64, 128])),
        window=draw(st.none() | st.integers(1, longest)),
        dtype=dtype,
        cache_dtype=cache_dtype,
        seed=draw(st.integers(0, 1_000)),
    )


@dataclass(frozen=True)
class Step:
    """What paged_attention takes, and every sequence's keys and values in full [context, kv_heads, head_dim]."""

    query: Tensor
    key: Tensor
    value: Tensor
    cache: LayerCache
    batch: PagedBatch
    histories: list[tuple[Tensor, Tensor]]


def step_of(case: Case) -> Step:
    """All but the step's own keys lie in the cache, in scattered blocks; unused places hold what must not be read."""
    random = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        numbers = torch.randn(*shape, generator=random)
        exact = case.cache_dtype == torch.float8_e4m3fn
        return (numbers.to(case.cache_dtype) if exact else numbers).to(case.dtype)

    needed = [-(-context // BLOCK_TOKENS) for _, context in case.sequences]
    blocks = sum(needed) + 1
    scattered = torch.randperm(blocks - 1, generator=random)
    tables = list(scattered.split(needed)) if needed else []
    histories = [
        (
            normal(context, case.kv_heads, case.head_dim),
            normal(context, case.kv_heads, case.head_dim),
        )
        for _, context in case.sequences
    ]
    cache = _empty_cache(case, blocks)
    for table, (keys, values), (rows, context) in zip(
        tables, histories, case.sequences, strict=True
    ):
        slots = _slots(table, context)[: context - rows]
        _put(cache, slots, keys[: context - rows], values[: context - rows])
    own = [
        (keys[-rows:], values[-rows:])
        for (keys, values), (rows, _) in zip(histories, case.sequences, strict=True)
    ]
    padding = normal(case.padding, case.kv_heads, case.head_dim)
    return Step(
        query=normal(case.rows, case.kv_heads * case.group, case.head_dim),
        key=torch.cat([*(keys for keys, _ in own), padding]),
        value=torch.cat([*(values for _, values in own), padding]),
        cache=cache,
        batch=_batch(case, tables, scratch_slot=(blocks - 1) * BLOCK_TOKENS),
        histories=histories,
    )


def _empty_cache(case: Case, blocks: int) -> LayerCache:
    shape = (blocks, BLOCK_TOKENS, case.kv_heads, case.head_dim)
    if case.cache_dtype == torch.int8:
        codes = (torch.full(shape, 99, dtype=torch.int8) for _ in range(2))
        return LayerCache(*codes, *(torch.full(shape[:3], float("nan")) for _ in range(2)))
    return LayerCache(*(torch.full(shape, float("nan")).to(case.cache_dtype) for _ in range(2)))


def _put(cache: LayerCache, slots: Tensor, keys: Tensor, values: Tensor) -> None:
    for heads, blocks, scales in (
        (keys, cache.keys, cache.key_scales),
        (values, cache.values, cache.value_scales),
    ):
        wide = heads.float()
        if scales is not None:
            scale = wide.abs().amax(-1) / 127
            scales.flatten(0, 1)[slots] = scale
            wide = (wide / scale[..., None]).round()
        narrow = torch.uint8 if blocks.element_size() == 1 else blocks.dtype
        blocks.view(narrow).flatten(0, 1)[slots] = wide.to(blocks.dtype).view(narrow)


def _slots(table: Tensor, context: int) -> Tensor:
    positions = torch.arange(context)
    return table[positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS


def _batch(case: Case, tables: list[Tensor], scratch_slot: int) -> PagedBatch:
    decodes = len(case.contexts)
    widest = max((len(table) for table in tables[:decodes]), default=0) + 1
    padded = [[*table.tolist(), *[2**30] * (widest - len(table))] for table in tables[:decodes]]
    slots = [
        _slots(table, context)[-rows:]
        for table, (rows, context) in zip(tables, case.sequences, strict=True)
    ]
    spans, row = [], decodes
    for table, (rows, context) in zip(tables[decodes:], case.spans, strict=True):
        spans.append(Span(row, rows, context, table))
        row += rows
    return PagedBatch(
        slots=torch.cat([*slots, torch.full((case.padding,), scratch_slot)]),
        tables=torch.tensor(padded, dtype=torch.int32).view(decodes, widest),
        contexts=torch.tensor(case.contexts, dtype=torch.int32),
        spans=spans,
    )


def exact(case: Case, step: Step) -> Tensor:
    """Attention over each row's keys in fp64; nothing for padding rows."""
    expected = torch.zeros(step.query.shape, dtype=torch.float64)
    row = 0
    for (keys, values), (rows, context) in zip(step.histories, case.sequences, strict=True):
        for end in range(context - rows + 1, context + 1):
            first = 0 if case.window is None else max(0, end - case.window)
            expected[row] = _exact_row(step.query[row], keys[first:end], values[first:end])
            row += 1
    return expected


def _exact_row(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    group = query.shape[0] // keys.shape[1]
    wide_keys, wide_values = (part.double().repeat_interleave(group, 1) for part in (keys, values))
    scores = torch.einsum("hd,khd->hk", query.double(), wide_keys) / query.shape[-1] ** 0.5
    return torch.einsum("hk,khd->hd", scores.softmax(-1), wide_values)


def close(case: Case, attended: Tensor, expected: Tensor) -> bool:
    allowed = max(TOLERANCE[case.dtype], TOLERANCE[case.cache_dtype])
    largest = expected.abs().max().clamp(min=1) if expected.numel() else 1
    return bool(((attended.double() - expected).abs() <= allowed * largest).all())
