"""Triton's kernels beside their references, in Triton's interpreter; test_triton.py runs this in a process of its own.

The interpreter cuts bf16 off where a GPU rounds it: exact roundings are checked in fp16 and fp32 here, and in bf16 by
tests/gpu.
"""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from serving.kernels.triton_decode import paged_decode
from serving.kernels.triton_fused import rotate_and_cache
from serving.kernels.triton_jit import interpreted
from serving.kernels.triton_linear import int4_linear, int8_linear, plain_linear
from serving.layers.attention import LayerCache, paged_decode_reference
from serving.models.share import Share
from serving.parallel.group import join_group, leave_group
from tests.serving.kernels.decode_cases import (
    DecodeCase,
    ask,
    assert_alone_is_together,
    assert_rows_see_their_contexts,
    decode_cases,
)
from tests.serving.kernels.decoder_cases import (
    DecoderCase,
    assert_the_step_is_the_plain_modules_step,
    decoder_cases,
)
from tests.serving.kernels.fused_cases import (
    FusedCase,
    assert_gate_is_right,
    assert_head_norm_is_right,
    assert_heads_turn_and_are_kept,
    assert_norm_is_right,
    fused_cases,
)
from tests.serving.kernels.linear_cases import (
    LinearCase,
    assert_product_is_right,
    assert_rows_do_not_depend_on_each_other,
    linear_cases,
)

torch.set_num_threads(1)
slowly = settings(
    max_examples=int(os.environ.get("EXAMPLES", "12")),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what fails is small enough to be read
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_kernels_are_interpreted() -> None:
    assert interpreted()


@slowly
@given(decode_cases())
def test_a_row_sees_its_context_and_nothing_else(case: DecodeCase) -> None:
    assert_rows_see_their_contexts(case, "cpu")


@slowly
@given(decode_cases())
def test_a_row_gets_the_same_alone_and_together(case: DecodeCase) -> None:
    assert_alone_is_together(case, "cpu")


def test_a_long_context_is_merged_in_several_turns() -> None:
    """More splits than one turn of the merging loop reads."""
    case = DecodeCase("fp32", "same", (2500, 130), 1, 2, 16, 16, None, 0, 3)
    assert_rows_see_their_contexts(case, "cpu")
    assert_alone_is_together(case, "cpu")


def test_a_cache_of_more_numbers_than_32_bits_count_is_written_and_read_at_its_end() -> None:
    """Pages that nobody touches take no memory."""
    blocks = 2**31 // (16 * 128) + 2
    cache = LayerCache(
        *(torch.empty(blocks, 16, 1, 128, dtype=torch.int8) for _ in range(2)),
        *(torch.empty(blocks, 16, 1) for _ in range(2)),
    )
    heads = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(1))
    slots = torch.tensor([(blocks - 1) * 16, (blocks - 1) * 16 + 1])
    rotate_and_cache(heads, heads, heads, None, cache, slots)
    tables = torch.full((2, 1), blocks - 1, dtype=torch.int32)
    contexts = torch.tensor([1, 2], dtype=torch.int32)
    found = paged_decode(heads, cache, tables, contexts)
    torch.testing.assert_close(found[0], heads[0], atol=0.02, rtol=0)
    wanted = paged_decode_reference(heads, cache, tables, contexts)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_no_rows_are_no_work() -> None:
    asked = ask(DecodeCase("fp32", "same", (1,), 1, 1, 16, 4, None, 0, 0), "cpu")
    none = paged_decode(asked.query[:0], asked.cache, asked.tables[:0], asked.contexts[:0])
    assert none.shape == (0, 1, 16)


def test_what_does_not_fit_is_refused() -> None:
    asked = ask(DecodeCase("fp32", "same", (5,), 2, 1, 16, 4, None, 0, 0), "cpu")
    query = torch.zeros(1, 3, 16)
    with pytest.raises(ValueError, match="3 query heads over 2 key heads"):
        paged_decode(query, asked.cache, asked.tables, asked.contexts)
    with pytest.raises(ValueError, match=r"tables of torch.int64; expected int32"):
        paged_decode(asked.query, asked.cache, asked.tables.long(), asked.contexts)
    scattered = asked.cache._replace(values=torch.zeros(16, 4, 2, 8).transpose(0, 3))
    with pytest.raises(ValueError, match="a cache that is not contiguous"):
        paged_decode(asked.query, scattered, asked.tables, asked.contexts)


@slowly
@given(linear_cases())
def test_products_are_those_of_the_widened_weight(case: LinearCase) -> None:
    assert_product_is_right(case, "cpu")


@slowly
@given(linear_cases())
def test_a_product_of_a_row_does_not_depend_on_the_others(case: LinearCase) -> None:
    assert_rows_do_not_depend_on_each_other(case, "cpu")


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[n, 64\]"):
        plain_linear(torch.zeros(2, 32), torch.zeros(5, 64))
    with pytest.raises(ValueError, match="for 5 outputs"):
        int8_linear(torch.zeros(2, 64), torch.zeros(5, 64, dtype=torch.int8), torch.zeros(4))
    codes, scales = torch.zeros(5, 32, dtype=torch.uint8), torch.zeros(5, 1)
    with pytest.raises(ValueError, match=r"expected \[5, 2\]"):
        int4_linear(torch.zeros(2, 64), codes, scales, scales)
    with pytest.raises(ValueError, match="weight: not contiguous"):
        plain_linear(torch.zeros(2, 32), torch.zeros(32, 5).t())


@slowly
@given(fused_cases())
def test_a_norm_is_the_plain_modules_norm(case: FusedCase) -> None:
    assert_norm_is_right(case, "cpu")


@slowly
@given(fused_cases())
def test_heads_are_normed_as_the_plain_module_norms_them(case: FusedCase) -> None:
    assert_head_norm_is_right(case, "cpu")


@slowly
@given(fused_cases())
def test_a_gate_is_the_plain_modules_gate(case: FusedCase) -> None:
    assert_gate_is_right(case, "cpu")


@slowly
@given(fused_cases())
def test_heads_turn_and_are_kept_as_plain_torch_does_it(case: FusedCase) -> None:
    assert_heads_turn_and_are_kept(case, "cpu")


@slowly
@given(decoder_cases())
def test_a_decoders_fused_step_is_the_plain_modules_step(case: DecoderCase) -> None:
    assert_the_step_is_the_plain_modules_step(case, "cpu")


def test_a_ranks_fused_step_adds_up_what_its_kernels_give(tmp_path: Path) -> None:
    """One rank of one: its parts are the whole."""
    join_group(tmp_path, Share(0, 1), "cpu")
    try:
        case = DecoderCase("llama", (3, 17), prompt=7, seed=1)
        assert_the_step_is_the_plain_modules_step(case, "cpu", is_a_rank=True)
    finally:
        leave_group("cpu")
