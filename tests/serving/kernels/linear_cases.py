"""Weights of every kind, few rows, and what their products must be. For a CPU and for a GPU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from serving.kernels import triton_linear
from serving.quantize import fp8, int4, int8
from tests.serving.kernels.decode_cases import DTYPES

# Beside the largest of the outputs: rounding of the result, and of an int4 weight one way or the other.
TOLERANCE = {"fp32": 3e-6, "fp16": 2e-3, "bf16": 2e-2}
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearCase:
    dtype: str
    kind: str
    rows: int
    groups: int  # of 32 inputs
    outputs: int
    has_bias: bool
    seed: int


def linear_cases(most_outputs: int = 80, most_groups: int = 6) -> st.SearchStrategy[LinearCase]:
    """Also inputs of which the sum is taken in parts."""
    return st.builds(
        LinearCase,
        dtype=st.sampled_from([*DTYPES]),
        kind=st.sampled_from(["plain", "int8", "fp8", "int4"]),
        rows=st.sampled_from([1, 2, 15, 16, 17, 33]),
        groups=st.integers(1, most_groups) | st.sampled_from([32, 65]),
        outputs=st.integers(1, most_outputs),
        has_bias=st.booleans(),
        seed=st.integers(0, 2**16),
    )


def rows_and_products(case: LinearCase, device: str) -> tuple[Tensor, Product, Product]:
    """Rows, and the two ways to their product: the kernel's and the reference's."""
    dice = torch.Generator().manual_seed(case.seed)
    inputs = 32 * case.groups
    weight = torch.randn(case.outputs, inputs, generator=dice) / inputs**0.5
    rows = torch.randn(case.rows, inputs, generator=dice).to(DTYPES[case.dtype]).to(device)
    bias = torch.randn(case.outputs, generator=dice).to(rows) if case.has_bias else None
    kernel, reference, parts = _of_kind(case.kind, weight, rows.dtype)
    parts = tuple(part.to(device) for part in parts)
    return rows, lambda x: kernel(x, *parts, bias), lambda x: reference(x, *parts, bias)


def _of_kind(
    kind: str, weight: Tensor, dtype: torch.dtype
) -> tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]:
    if kind == "int8":
        scaled = triton_linear.row_scaled_reference
        return triton_linear.int8_linear, scaled, int8.encode(weight)
    if kind == "fp8":
        scaled = triton_linear.row_scaled_reference
        return triton_linear.fp8_linear, scaled, fp8.encode(weight)
    if kind == "int4":
        return triton_linear.int4_linear, triton_linear.int4_reference, int4.encode(weight)
    return triton_linear.plain_linear, triton_linear.plain_reference, (weight.to(dtype),)


def assert_product_is_right(case: LinearCase, device: str) -> None:
    rows, kernel, reference = rows_and_products(case, device)
    found, wanted = kernel(rows), reference(rows)
    assert found.shape == wanted.shape == (case.rows, case.outputs)
    assert found.dtype == rows.dtype
    worst = (found.float() - wanted.float()).abs().max()
    assert worst <= TOLERANCE[case.dtype] * wanted.float().abs().max().clamp(min=1)


def assert_rows_do_not_depend_on_each_other(case: LinearCase, device: str) -> None:
    rows, kernel, _ = rows_and_products(case, device)
    together = kernel(rows)
    for row in (0, case.rows - 1):
        assert torch.equal(kernel(rows[row : row + 1])[0], together[row])
