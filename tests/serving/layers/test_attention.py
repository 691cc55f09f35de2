"""Attention over the paged cache, beside attention in fp64 over the whole history."""

import pytest
import torch
from hypothesis import given, settings

from serving.layers.attention import paged_attention
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
