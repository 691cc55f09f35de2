"""A quantized linear layer against the product with the weight that its codes stand for."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from serving.quantize import fp8, scaled_rows
from serving.quantize.linear import SCHEMES, NativeLinear, StoredLinear, quantized_linear

# fp32 sums of a group cancel with its minimum: what is lost there is more than a last bit.
ROUNDING = {torch.bfloat16: 8e-3, torch.float16: 2e-3, torch.float32: 1e-4}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


NATIVE = ["int8", "int8-dynamic", "int4", "int4-dynamic"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(scheme: str, outputs: int, inputs: int, *, biased: bool) -> tuple[nn.Module, Tensor]:
    """The module, and in fp64 the weight [outputs, inputs] and behind it the bias that it should multiply with."""
    encoded = SCHEMES[scheme].encode(normal(outputs, inputs, seed=1))
    bias = normal(outputs, seed=2).to(torch.bfloat16) if biased else None
    stands_for = SCHEMES[scheme].decode(encoded, torch.float64)
    added = torch.zeros(outputs, 1) if bias is None else bias[:, None]
    return quantized_linear(encoded, bias, SCHEMES[scheme]), torch.cat(
        (stands_for, added.double()), dim=1
    )


def rounded(scheme: str, rows: Tensor) -> Tensor:
    """Activations as the scheme takes them."""
    to = SCHEMES[scheme].rounded
    return rows if to is None else to(rows)


@settings(deadline=None, max_examples=60)
@given(
    scheme=st.sampled_from(NATIVE),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float16]),
    outputs=st.sampled_from([1, 15, 16, 33, 100]),
    inputs=st.sampled_from([32, 96, 576]),
    rows=st.integers(1, 19),
    biased=st.booleans(),
)
def test_the_product_is_the_one_with_the_weight_that_the_codes_stand_for(
    scheme: str, dtype: torch.dtype, outputs: int, inputs: int, rows: int, biased: bool
) -> None:
    module, stands_for = layer(scheme, outputs, inputs, biased=biased)
    x = normal(rows, inputs, seed=3).to(dtype)
    taken = rounded(scheme, x.float()).double()
    expected = torch.cat((taken, torch.ones(rows, 1, dtype=torch.float64)), 1) @ stands_for.T
    product = module(x)
    assert product.dtype == dtype
    off = (product.double() - expected).abs()
    assert (off <= ROUNDING[dtype] * (1 + expected.abs())).all()


@settings(deadline=None, max_examples=30)
@given(
    scheme=st.sampled_from(NATIVE),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    rows=st.integers(2, 70),
    threads=st.integers(1, 2),
    data=st.data(),
)
def test_what_a_row_gets_does_not_depend_on_the_rows_beside_it(
    scheme: str, dtype: torch.dtype, rows: int, threads: int, data: st.DataObject
) -> None:
    module, _ = layer(scheme, 50, 2080, biased=True)
    x = normal(rows, 2080, seed=3).to(dtype)
    together = module(x)
    torch.set_num_threads(threads)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    assert torch.equal(module(x[first:last]), together[first:last])


def test_rows_that_are_not_side_by_side_in_memory_are_multiplied_all_the_same() -> None:
    module, _ = layer("int4", 20, 64, biased=False)
    wide = normal(5, 128).to(torch.bfloat16)
    assert torch.equal(module(wide[:, 32:96]), module(wide[:, 32:96].clone()))


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_the_plain_form_gives_back_what_was_encoded_and_multiplies_alike(scheme: str) -> None:
    encoded = SCHEMES[scheme].encode(normal(70, 64, seed=1))
    bias = normal(70, seed=2)
    stored = StoredLinear(SCHEMES[scheme], encoded, bias)
    x = normal(3, 64, seed=3)
    expected = rounded(scheme, x) @ SCHEMES[scheme].decode(encoded, torch.float32).T + bias
    assert all(
        torch.equal(one.float(), other.float())
        for one, other in zip(stored.weight(), encoded, strict=True)
    )
    assert torch.allclose(stored(x), expected, atol=1e-5)
    assert torch.allclose(quantized_linear(encoded, bias, SCHEMES[scheme])(x), expected, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", NATIVE)
def test_what_is_no_number_stays_none(scheme: str, value: float) -> None:
    module, _ = layer(scheme, 20, 64, biased=False)
    x = normal(2, 64).to(torch.bfloat16)
    x[1, 40] = value
    product = module(x)
    assert product[0].isfinite().all()
    assert not product[1].isfinite().any()


def test_rows_of_another_width_are_refused() -> None:
    module, _ = layer("int8", 16, 64, biased=False)
    with pytest.raises((ValueError, RuntimeError), match=r"64|mat1"):
        module(torch.ones(2, 32))


def test_packed_weights_are_not_moved_behind_the_back_of_native_code() -> None:
    module, _ = layer("int8", 16, 64, biased=False)
    if isinstance(module, NativeLinear):
        with pytest.raises(RuntimeError, match="packed for this CPU in int8 can't be moved"):
            nn.Sequential(module).to(torch.float16)


def test_fp8_dynamic_multiplies_what_rounded_activations_stand_for() -> None:
    encoded, x, bias = fp8.encode(normal(80, 96, seed=1)), normal(5, 96, seed=3), normal(80, seed=2)
    module = quantized_linear(encoded, bias, SCHEMES["fp8-dynamic"])
    taken = scaled_rows.decode(fp8.encode(x), torch.float64)
    expected = taken @ scaled_rows.decode(encoded, torch.float64).T + bias
    assert torch.allclose(module(x).double(), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64",
    reason="Triton is built for Linux on x86-64 only",
)
def test_the_plain_form_takes_a_gpus_kernels_where_there_are_any() -> None:
    """In a process of its own, as whether Triton interprets is settled when it is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.quantize.interpreted"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["int8", "int4", "fp8"]
