"""The kernels on a device, beside their references: the cases that CI gives to Triton's interpreter, and larger ones."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

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
