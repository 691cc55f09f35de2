"""Native operators between the products, beside plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from serving.kernels import native, native_fused
from serving.layers.norm import RMSNorm

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")

dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


@settings(deadline=None, max_examples=100)
@given(
    rows=st.integers(0, 9),
    size=st.sampled_from([1, 8, 24, 64, 576, 1_000]),
    dtype=dtypes,
    adds=st.booleans(),
    threads=st.integers(1, 2),
)
def test_the_sum_is_torchs_and_its_norm_the_modules(
    rows: int, size: int, dtype: torch.dtype, adds: bool, threads: int
) -> None:
    norm = RMSNorm(size, 1e-5).to(dtype).requires_grad_(False)
    norm.weight.copy_(normal(size, seed=1))
    hidden = normal(rows, size, seed=2).to(dtype)
    added = normal(rows, size, seed=3).to(dtype) if adds else None
    torch.set_num_threads(threads)
    normed, total = native_fused.add_rms_norm(hidden, added, norm.weight, norm.eps)
    torch.set_num_threads(1)
    assert torch.equal(total, hidden if added is None else hidden + added)
    # fp32 sums in another order may turn a rounding of bf16, seldom two.
    close_by = {torch.bfloat16: 2**-7, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(normed, norm(total), rtol=close_by, atol=0)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 9), size=st.sampled_from([1, 8, 24, 1_536]), dtype=dtypes)
def test_the_gate_is_torchs(rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = normal(rows, 2 * size, seed=1).to(dtype)
    gate, up = gate_up.chunk(2, dim=-1)
    close_by = {torch.bfloat16: 2**-7, torch.float32: 1e-5}[dtype]
    gated = native_fused.silu_mul(gate_up)
    torch.testing.assert_close(gated, functional.silu(gate) * up, rtol=close_by, atol=1e-30)


def test_the_gate_of_numbers_at_the_ends_of_their_range_is_torchs() -> None:
    gate = torch.tensor([[-1e4, -104.0, -88.0, -87.0, 0.0, 88.0, 1e4, float("inf"), float("nan")]])
    gated = native_fused.silu_mul(torch.cat((gate, torch.ones_like(gate)), dim=-1))
    torch.testing.assert_close(gated, functional.silu(gate), rtol=1e-5, atol=1e-36, equal_nan=True)
