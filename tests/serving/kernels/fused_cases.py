"""Rows for the kernels between the products, and what they must become. For a CPU and for a GPU."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from serving.kernels import triton_fused
from serving.layers.attention import LayerCache
from serving.layers.rotary import rotation
from tests.serving.kernels.decode_cases import DTYPES

# One step of the type, at numbers of about 4. fp32 differs where a library's function does.
STEP = {"fp32": 4e-6, "fp16": 4e-3, "bf16": 4e-2}


@dataclass(frozen=True)
class FusedCase:
    dtype: str
    cache_kind: str
    rows: int
    heads: int
    kv_heads: int
    half_dim: int
    size: int
    seed: int


def fused_cases() -> st.SearchStrategy[FusedCase]:
    return st.builds(
        FusedCase,
        dtype=st.sampled_from([*DTYPES]),
        cache_kind=st.sampled_from(["same", "int8", "fp8"]),
        rows=st.integers(1, 5),
        heads=st.integers(1, 4),
        kv_heads=st.integers(1, 3),
        half_dim=st.sampled_from([8, 20, 64]),
        size=st.integers(1, 1100),
        seed=st.integers(0, 2**16),
    )


def _random(case: FusedCase, device: str, *shape: int) -> Tensor:
    dice = torch.Generator().manual_seed(case.seed)
    return torch.randn(shape, generator=dice).to(DTYPES[case.dtype]).to(device)


def assert_norm_is_right(case: FusedCase, device: str) -> None:
    hidden, added, weight = _random(case, device, 3, case.rows, case.size).unbind()
    for other in (added, None):
        found = triton_fused.add_rms_norm(hidden, other, weight[0].contiguous(), 1e-5)
        wanted = triton_fused.add_rms_norm_reference(hidden, other, weight[0], 1e-5)
        for one, two in zip(found, wanted, strict=True):
            assert_close(one, two, case.dtype)


def assert_head_norm_is_right(case: FusedCase, device: str) -> None:
    """Heads that are a part of a product, with others behind them."""
    product = _random(case, device, case.rows, case.heads + case.kv_heads, 2 * case.half_dim)
    heads, weight = product[:, : case.heads], product[0, -1].clone()
    assert_close(
        triton_fused.norm_heads(heads, weight, 1e-6),
        triton_fused.norm_heads_reference(heads, weight, 1e-6),
        case.dtype,
    )


def assert_gate_is_right(case: FusedCase, device: str) -> None:
    gate_up = _random(case, device, case.rows, 2 * case.size)
    assert_close(
        triton_fused.silu_mul(gate_up), triton_fused.silu_mul_reference(gate_up), case.dtype
    )


def assert_heads_turn_and_are_kept(case: FusedCase, device: str) -> None:
    """Queries, keys and values are parts of one product; every row writes to a slot of its own."""
    head_dim = 2 * case.half_dim
    heads = [case.heads, case.kv_heads, case.kv_heads]
    product = _random(case, device, case.rows, sum(heads), head_dim)
    if case.cache_kind == "fp8":
        # Numbers that fp8 holds, and turns by a quarter, which leaves them as they are: the interpreter
        # cannot round to fp8.
        product = product.round()
    query, key, value = product.split(heads, dim=1)
    angles = _angles(case, device)
    ours, theirs = _empty_cache(case, device), _empty_cache(case, device)
    slots = torch.randperm(4 * 3, generator=torch.Generator().manual_seed(case.seed))[: case.rows]
    slots = slots.to(device)
    found = triton_fused.rotate_and_cache(query, key, value, angles, ours, slots)
    wanted = triton_fused.rotate_and_cache_reference(query, key, value, angles, theirs, slots)
    assert_close(found, wanted, case.dtype)
    _assert_kept(ours, theirs, case)


def _angles(case: FusedCase, device: str) -> tuple[Tensor, Tensor]:
    if case.cache_kind == "fp8":
        shape = (case.rows, 1, 2 * case.half_dim)
        return torch.zeros(shape).to(_random(case, device)), torch.ones(shape).to(
            _random(case, device)
        )
    frequencies = torch.rand(case.half_dim, generator=torch.Generator().manual_seed(case.seed))
    cosines, sines = rotation(torch.arange(case.rows), frequencies, DTYPES[case.dtype])
    return cosines.to(device), sines.to(device)


def _empty_cache(case: FusedCase, device: str) -> LayerCache:
    shape = (4, 3, case.kv_heads, 2 * case.half_dim)
    kinds = {"same": DTYPES[case.dtype], "int8": torch.int8, "fp8": torch.float8_e4m3fn}

    def zeros() -> Tensor:
        return torch.zeros(shape, device=device).to(kinds[case.cache_kind])

    if case.cache_kind != "int8":
        return LayerCache(zeros(), zeros())
    scales = torch.zeros(shape[:-1], device=device)
    return LayerCache(zeros(), zeros(), scales, scales.clone())


def _assert_kept(ours: LayerCache, theirs: LayerCache, case: FusedCase) -> None:
    for one, two in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
        if case.cache_kind == "int8":
            # A key on the border between two codes may fall to either side.
            assert (one.int() - two.int()).abs().max() <= (2 if case.dtype == "bf16" else 1)
        else:
            assert_close(one, two, case.dtype)
    if ours.key_scales is not None and theirs.key_scales is not None:
        assert_close(ours.key_scales, theirs.key_scales, case.dtype)


def assert_close(found: Tensor, wanted: Tensor, dtype: str) -> None:
    assert found.shape == wanted.shape
    worst = (found.float() - wanted.float()).abs().max()
    assert worst <= STEP[dtype] * wanted.float().abs().max().clamp(min=1)
