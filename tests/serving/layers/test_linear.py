"""Packed bf16 products beside torch's, and the same row to the bit in every company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from serving.kernels import native
from serving.layers.linear import PackedEmbedding, PackedLinear, pack

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs a C compiler")

# Half a unit in the last of bf16's 8 bits; what fp32 sums in another order add is far below.
ROUNDING = 2**-8

sizes = {"outputs": st.integers(1, 100), "inputs": st.sampled_from([2, 6, 32, 64, 150, 576])}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def a_linear(outputs: int, inputs: int, *, biased: bool = True) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=biased).bfloat16().requires_grad_(False)
    linear.weight.copy_(normal(outputs, inputs, seed=1))
    return linear


def packed(linear: nn.Linear) -> PackedLinear:
    model = nn.Sequential(linear)
    pack(model)
    assert isinstance(model[0], PackedLinear)
    return model[0]


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(0, 30), biased=st.booleans(), **sizes)
def test_a_packed_product_is_the_product(
    rows: int, biased: bool, outputs: int, inputs: int
) -> None:
    linear = a_linear(outputs, inputs, biased=biased)
    x = normal(rows, inputs, seed=2)
    expected = nn.functional.linear(
        x.double(), linear.weight.double(), linear.bias.double() if biased else None
    )
    product = packed(linear)(x)
    assert product.dtype == torch.bfloat16
    assert ((product.double() - expected).abs() <= ROUNDING * expected.abs() + 1e-4).all()


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 60),
    chosen=st.integers(0, 59),
    company=st.integers(0, 13),
    threads=st.integers(1, 2),
    **sizes,
)
def test_a_row_is_the_same_to_the_bit_in_every_company_and_on_any_number_of_threads(
    rows: int, chosen: int, company: int, threads: int, outputs: int, inputs: int
) -> None:
    linear = packed(a_linear(outputs, inputs))
    x = normal(rows, inputs, seed=2)
    chosen %= rows
    torch.set_num_threads(threads)
    everywhere = linear(x)
    torch.set_num_threads(1)
    few = x[chosen : chosen + 1 + company]
    assert torch.equal(linear(few), everywhere[chosen : chosen + 1 + company])


def test_rows_beyond_a_cache_full_are_computed_like_the_first() -> None:
    """Many inputs and rows: the product walks through the rows in chunks."""
    linear = packed(a_linear(40, 4_096))
    x = normal(150, 4_096, seed=2)
    assert torch.equal(linear(x), torch.cat([linear(row) for row in x.split(1)]))


@settings(deadline=None, max_examples=30)
@given(ids=st.lists(st.integers(0, 99), max_size=20))
def test_a_matrix_that_embedding_and_head_share_lies_in_memory_once(ids: list[int]) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(100, 64), "head": nn.Linear(64, 100, bias=False)})
    model.bfloat16().requires_grad_(False)
    model["head"].weight = model["embed"].weight
    rows = model["embed"].weight[ids]
    pack(model)
    embedding, head = model["embed"], model["head"]
    assert isinstance(embedding, PackedEmbedding)
    assert embedding.packed.data_ptr() == head.get_buffer("packed").data_ptr()
    assert torch.equal(embedding(torch.tensor(ids, dtype=torch.int64)), rows)
    with pytest.raises(IndexError, match="beyond the 100"):
        embedding(torch.tensor([100]))


def test_what_is_no_bf16_stays_as_it_is() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Linear(7, 8).bfloat16(), nn.Embedding(4, 8).bfloat16()
    )
    before = list(model)
    pack(model)
    assert list(model) == before


def test_a_packed_model_refuses_to_be_moved() -> None:
    model = nn.Sequential(a_linear(8, 8))
    pack(model)
    with pytest.raises(RuntimeError, match="pack the model where it is to run"):
        model.float()


def test_rows_of_another_dtype_or_size_are_refused() -> None:
    linear = packed(a_linear(8, 8))
    with pytest.raises(ValueError, match="expected bf16 rows of 8"):
        linear(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="expected bf16 rows of 8"):
        linear(torch.zeros(2, 6, dtype=torch.bfloat16))
