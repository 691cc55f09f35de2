"""Native attention beside fp64 and plain torch; and the same row to the bit in every company."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from serving.kernels import native, native_attention, native_fused
from serving.layers.attention import (
    LayerCache,
    attend,
    paged_attention,
    paged_decode_reference,
    span_reference,
)
from tests.serving.layers.paged_cases import Case, Step, cases, close, exact, step_of

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")

LONG = 600  # more than two splits


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def written(case: Case) -> Step:
    """A step whose keys and values lie in the cache."""
    step = step_of(case)
    paged_attention(step.query, step.key, step.value, step.cache, step.batch, window=case.window)
    return step


def reference(case: Case, step: Step) -> Tensor:
    attended = torch.zeros_like(step.query)
    batch, decodes = step.batch, len(case.contexts)
    attended[:decodes] = paged_decode_reference(
        step.query[:decodes], step.cache, batch.tables, batch.contexts, case.window
    )
    for span in batch.spans:
        rows = slice(span.first_row, span.first_row + span.rows)
        attended[rows] = span_reference(step.query[rows], step.cache, span, case.window)
    return attended


@settings(deadline=None, max_examples=150)
@given(cases(longest=LONG))
def test_native_attention_and_its_reference_agree_with_attention_in_fp64(case: Case) -> None:
    step = written(case)
    assert native_attention.usable(step.query, step.cache)
    expected = exact(case, step)
    assert close(case, attend(step.query, step.cache, step.batch, window=case.window), expected)
    assert close(case, reference(case, step), expected)


@settings(deadline=None, max_examples=100)
@given(case=cases(longest=LONG), threads=st.integers(1, 2))
def test_a_row_is_the_same_to_the_bit_alone_in_a_batch_and_as_part_of_a_prompt(
    case: Case, threads: int
) -> None:
    assume(case.rows > case.padding)
    step = written(case)
    torch.set_num_threads(threads)
    together = attend(step.query, step.cache, step.batch, window=case.window)
    torch.set_num_threads(1)
    for row, (table, context) in enumerate(rows_of(case, step)):
        alone = native_attention.paged_decode(
            step.query[row : row + 1],
            step.cache,
            table[None],
            torch.tensor([context], dtype=torch.int32),
            case.window,
        )
        assert torch.equal(alone[0], together[row])


@settings(deadline=None, max_examples=30)
@given(
    context=st.integers(100, LONG), window=st.none() | st.integers(1, LONG), seed=st.integers(0, 99)
)
def test_threads_share_one_long_context_without_a_trace(
    context: int, window: int | None, seed: int
) -> None:
    case = Case((context,), (), 0, 2, 3, 64, window, torch.bfloat16, torch.bfloat16, seed)
    step = written(case)
    alone = attend(step.query, step.cache, step.batch, window=window)
    torch.set_num_threads(2)
    shared = attend(step.query, step.cache, step.batch, window=window)
    torch.set_num_threads(1)
    assert torch.equal(alone, shared)


def rows_of(case: Case, step: Step) -> list[tuple[Tensor, int]]:
    """Every row's blocks and context, as if it were decoded."""
    rows = list(zip(step.batch.tables, case.contexts, strict=True))
    for span in step.batch.spans:
        before = span.context - span.rows
        rows += [(span.blocks.int(), before + i + 1) for i in range(span.rows)]
    return rows


@settings(deadline=None, max_examples=100)
@given(case=cases(), turned=st.booleans())
def test_turning_and_writing_in_one_call_leaves_what_plain_torch_leaves(
    case: Case, turned: bool
) -> None:
    native_step, torch_step = step_of(case), step_of(case)
    random = torch.Generator().manual_seed(case.seed)
    angle = torch.rand(case.rows, 1, case.head_dim // 2, generator=random).repeat(1, 1, 2) * 6
    angles = (angle.cos().to(case.dtype), angle.sin().to(case.dtype))
    query = native_fused.rotate_and_cache(
        native_step.query,
        native_step.key,
        native_step.value,
        angles if turned else None,
        native_step.cache,
        native_step.batch.slots,
    )
    parts = (torch_step.query, torch_step.key)
    turned_query, turned_key = (rotated(part, angles) if turned else part for part in parts)
    paged_attention(turned_query, turned_key, torch_step.value, torch_step.cache, torch_step.batch)
    assert_same(query, turned_query, case)
    for ours, theirs in zip(native_step.cache, torch_step.cache, strict=True):
        if ours is not None and theirs is not None:
            assert_same(ours.float()[:-1], theirs.float()[:-1], case)  # the last block is scratch


def rotated(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * angles[0] + torch.cat((-second, first), dim=-1) * angles[1]


def assert_same(ours: Tensor, theirs: Tensor, case: Case) -> None:
    """bf16 to the bit; in fp32 a compiler may keep a product exact until it is added, which a code of int8 may show."""
    exactly = case.dtype == torch.bfloat16
    allowed = 1 if case.cache_dtype == torch.int8 else 1e-6
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if exactly else allowed, equal_nan=True)


def test_every_code_of_e4m3_is_written_and_read_as_torch_does() -> None:
    codes = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
    between = (codes[:-1] + codes[1:]) / 2  # ties
    upwards, downwards = (codes.nextafter(torch.tensor(end)) for end in (1e9, -1e9))
    numbers = torch.cat([codes, between, upwards, downwards, torch.zeros(1)]).view(1, -1, 16)
    empty = torch.zeros(1, 1, *numbers.shape[1:])
    cache = LayerCache(*(empty.to(torch.float8_e4m3fn) for _ in range(2)))
    slot = torch.zeros(1, dtype=torch.int64)
    native_fused.rotate_and_cache(numbers, numbers, numbers, None, cache, slot)
    rounded = numbers.clamp(-448, 448).to(torch.float8_e4m3fn)  # as a GPU does it
    assert torch.equal(cache.values[0].view(torch.uint8), rounded.view(torch.uint8))
    only_key = native_attention.paged_decode(
        torch.zeros_like(numbers), cache, torch.zeros(1, 1), torch.ones(1)
    )
    finite = rounded.float().isfinite().all(-1)[0]
    assert finite.sum() > 50
    assert torch.equal(only_key[:, finite], rounded.float()[:, finite])
