"""What a weight becomes in each scheme, and what it stands for then."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from serving.quantize import fp8, int4, int8, scaled_rows
from serving.quantize.linear import SCHEMES


def weight(outputs: int, inputs: int, seed: int, size: float = 1.0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * size


shapes = st.tuples(st.integers(1, 5), st.sampled_from([32, 64, 160]), st.integers(0, 2**31))


@settings(deadline=None)
@given(shapes, st.sampled_from([1e-3, 1.0, 300.0]))
def test_an_int8_weight_is_within_half_a_step_of_the_original(
    shape: tuple[int, int, int], size: float
) -> None:
    original = weight(*shape, size=size)
    quantized = int8.encode(original)
    off = (scaled_rows.decode(quantized, torch.float32) - original).abs()
    assert (off <= quantized.scales[:, None] * 0.5001).all()


@settings(deadline=None)
@given(shapes, st.sampled_from([1e-2, 1.0, 300.0]))
def test_int4_is_never_worse_than_rounding_over_the_whole_range(
    shape: tuple[int, int, int], size: float
) -> None:
    original = weight(*shape, size=size)
    groups = original.unflatten(1, (-1, 32))
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    off = int4.decode(int4.encode(original), torch.float32) - original
    # Half a step each at the worst; the rest is what fp16 scales round away.
    worst = 32 * (0.5 * step + 2e-3 * groups.abs().amax(-1)).square()
    assert (off.unflatten(1, (-1, 32)).square().sum(-1) <= worst).all()


@settings(deadline=None)
@given(shapes)
def test_int4_gives_back_a_weight_that_is_already_on_its_steps(
    shape: tuple[int, int, int],
) -> None:
    outputs, inputs, seed = shape
    dice = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8, generator=dice)
    codes[:, 0::32], codes[:, 1::32] = 0, 15
    scales = (torch.rand(outputs, inputs // 32, generator=dice) + 0.01).half()
    born = int4.Int4Weight(int4.pack_codes(codes), scales, (-7.25 * scales.float()).half())
    again = int4.encode(int4.decode(born, torch.float32))
    assert torch.equal(again.codes, born.codes)


@settings(deadline=None)
@given(shapes)
def test_an_fp8_weight_is_within_a_sixteenth_of_the_original(shape: tuple[int, int, int]) -> None:
    original = weight(*shape)
    quantized = fp8.encode(original)
    off = (scaled_rows.decode(quantized, torch.float32) - original).abs()
    smallest_step = quantized.scales[:, None] * 2**-9
    assert (off <= torch.maximum(original.abs() / 16, smallest_step)).all()


@pytest.mark.parametrize("name", ["int8", "int4", "fp8"])
def test_zeros_stay_zeros(name: str) -> None:
    scheme, zeros = SCHEMES[name], torch.zeros(3, 64)
    assert torch.equal(scheme.decode(scheme.encode(zeros), torch.float32), zeros)


@pytest.mark.parametrize("scheme", [int8, int4, fp8])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_weight_is_refused(scheme: object, value: float) -> None:
    damaged = torch.ones(3, 64)
    damaged[1, 5] = value
    with pytest.raises(ValueError, match="not finite"):
        scheme.encode(damaged)


def test_int4_refuses_inputs_that_fill_no_group() -> None:
    with pytest.raises(ValueError, match="48 inputs; int4 needs a multiple of 32"):
        int4.encode(torch.ones(2, 48))


def test_two_codes_share_a_byte_the_first_in_the_low_bits() -> None:
    assert int4.pack_codes(torch.tensor([[3, 15, 0, 7]], dtype=torch.uint8)).tolist() == [
        [0xF3, 0x70]
    ]
