"""Attention over the paged cache, beside attention in fp64 over the whole history."""

import pytest
import torch
from hypothesis import given, settings
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from serving.layers.attention import LayerCache, Span, paged_attention, write
from tests.serving.layers.paged_cases import Case, cases, close, exact, step_of


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@settings(deadline=None, max_examples=150)
@given(cases())
def test_every_row_attends_to_its_own_context_and_padding_to_nothing(case: Case) -> None:
    step = step_of(case)
    attended = paged_attention(
        step.query, step.key, step.value, step.cache, step.batch, window=case.window
    )
    assert attended.dtype == case.dtype
    assert close(case, attended, exact(case, step))
    assert attended[case.rows - case.padding :].count_nonzero() == 0


def test_keys_beyond_what_fp8_holds_are_kept_as_its_largest() -> None:
    """A NaN in their place would spoil every answer that looks at them."""
    loud = torch.tensor([[[1000.0, -torch.inf, 449.0, 480.0, -3.0, 448.0, torch.nan, 0.0]]])
    cache = LayerCache(*torch.zeros(2, 1, 1, 1, 8).to(torch.float8_e4m3fn))
    write(loud, loud, cache, torch.zeros(1, dtype=torch.int64))
    kept = torch.tensor([448.0, -448.0, 448.0, 448.0, -3.0, 448.0, torch.nan, 0.0])
    for blocks in (cache.keys, cache.values):
        torch.testing.assert_close(blocks.float().flatten(), kept, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("rows", "context"), [(2, 3), (5, 40), (39, 40)])
def test_the_mask_of_a_chunk_is_the_kind_that_a_gpu_gets(rows: int, context: int) -> None:
    span = Span(0, rows, context, torch.zeros(1, dtype=torch.int64))
    query, key = torch.randn(1, 4, rows, 8), torch.randn(1, 2, context, 8)
    by_mask, by_kind = (
        scaled_dot_product_attention(query, key, key, attn_mask=mask, enable_gqa=True)
        for mask in (span.mask, causal_lower_right(rows, context))
    )
    assert torch.equal(by_mask, by_kind)
