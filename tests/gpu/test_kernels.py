"""The kernels on a device, beside their references: the cases that CI gives to Triton's interpreter, and larger ones."""

import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from serving.kernels import triton_fused
from serving.layers.attention import LayerCache, Span, span_reference
from tests.serving.kernels.decode_cases import (
    DecodeCase,
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

pytestmark = pytest.mark.gpu

# Most of the time goes to compiling a kernel for sizes that were not seen before.
compiling = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what fails is small enough to be read
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@compiling
@given(decode_cases(longest=3000))
def test_a_row_sees_its_context_and_nothing_else(case: DecodeCase) -> None:
    assert_rows_see_their_contexts(case, "cuda")


@compiling
@given(decode_cases(longest=3000))
def test_a_row_gets_the_same_alone_and_together(case: DecodeCase) -> None:
    assert_alone_is_together(case, "cuda")


@compiling
@given(linear_cases(most_outputs=5000))
def test_products_are_those_of_the_widened_weight(case: LinearCase) -> None:
    assert_product_is_right(case, "cuda")


@compiling
@given(linear_cases(most_outputs=5000))
def test_a_product_of_a_row_does_not_depend_on_the_others(case: LinearCase) -> None:
    assert_rows_do_not_depend_on_each_other(case, "cuda")


@compiling
@given(fused_cases())
def test_a_norm_is_the_plain_modules_norm(case: FusedCase) -> None:
    assert_norm_is_right(case, "cuda")


@compiling
@given(fused_cases())
def test_heads_are_normed_as_the_plain_module_norms_them(case: FusedCase) -> None:
    assert_head_norm_is_right(case, "cuda")


@compiling
@given(fused_cases())
def test_a_gate_is_the_plain_modules_gate(case: FusedCase) -> None:
    assert_gate_is_right(case, "cuda")


@compiling
@given(fused_cases())
def test_heads_turn_and_are_kept_as_plain_torch_does_it(case: FusedCase) -> None:
    assert_heads_turn_and_are_kept(case, "cuda")


@pytest.mark.parametrize("kind", ["plain", "int8", "fp8", "int4"])
def test_the_weights_of_an_8b_model_are_multiplied(kind: str) -> None:
    """Nothing runs out of shared memory, and no index out of 31 bits."""
    torch.manual_seed(1)
    for groups, outputs in ((128, 6144), (128, 28672), (448, 4096), (128, 128256)):
        case = LinearCase("bf16", kind, 17, groups, outputs, False, 5)
        assert_product_is_right(case, "cuda")


@compiling
@given(decoder_cases())
def test_a_decoders_fused_step_is_the_plain_modules_step(case: DecoderCase) -> None:
    assert_the_step_is_the_plain_modules_step(case, "cuda")


@pytest.mark.parametrize("loud", [1000.0, -465.0, torch.inf])
def test_keys_beyond_what_fp8_holds_are_kept_as_its_largest(loud: float) -> None:
    heads = torch.full((2, 1, 16), loud, dtype=torch.bfloat16, device="cuda")
    slots = torch.arange(2, device="cuda")
    for keep in (triton_fused.rotate_and_cache, triton_fused.rotate_and_cache_reference):
        blocks = torch.zeros(2, 1, 4, 1, 16, device="cuda").to(torch.float8_e4m3fn)
        cache = LayerCache(*blocks)
        keep(heads, heads, heads, None, cache, slots)
        kept = [part.float()[0, :2].unique().tolist() for part in (cache.keys, cache.values)]
        assert kept == [[math.copysign(448.0, loud)]] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "context"), [(2, 3), (64, 700), (333, 1000)])
def test_a_chunk_attends_to_what_was_before_it(dtype: torch.dtype, rows: int, context: int) -> None:
    """By flash attention in bf16, by a mask in fp32."""
    torch.manual_seed(1)
    blocks = torch.randperm(70)[: -(-context // 16)]
    cache = LayerCache(*torch.randn(2, 70, 16, 2, 64).to(dtype))
    query = torch.randn(rows, 8, 64).to(dtype)
    wanted = span_reference(query.float(), cache, Span(0, rows, context, blocks))
    there = LayerCache(cache.keys.cuda(), cache.values.cuda())
    found = span_reference(query.cuda(), there, Span(0, rows, context, blocks.cuda()))
    close_by = {torch.bfloat16: 2e-2, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(found.float().cpu(), wanted, rtol=close_by, atol=close_by)
