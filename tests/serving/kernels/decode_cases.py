"""Paged caches full of numbers, rows that look into them, and what they must see. For a CPU and for a GPU."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from serving.kernels.triton_decode import SPLIT_KEYS, paged_decode
from serving.layers.attention import LayerCache, paged_decode_reference

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Of attended values, which are means of numbers of about 1: what two orders of summing may differ by.
TOLERANCE = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 2e-2}
_EDGES = [1, 2, SPLIT_KEYS - 1, SPLIT_KEYS, SPLIT_KEYS + 1, 2 * SPLIT_KEYS, 2 * SPLIT_KEYS + 7]


@dataclass(frozen=True)
class DecodeCase:
    """contexts [rows]; cache_kind is "same" as the query's dtype, "int8" or "fp8"."""

    dtype: str
    cache_kind: str
    contexts: tuple[int, ...]
    kv_heads: int
    group: int
    head_dim: int
    block_tokens: int
    window: int | None
    spare_blocks: int  # of the tables, behind the longest context
    seed: int


def decode_cases(longest: int = 300) -> st.SearchStrategy[DecodeCase]:
    return st.builds(
        DecodeCase,
        dtype=st.sampled_from([*DTYPES]),
        cache_kind=st.sampled_from(["same", "int8", "fp8"]),
        contexts=st.lists(
            st.sampled_from(_EDGES) | st.integers(1, longest), min_size=1, max_size=4
        ).map(tuple),
        kv_heads=st.integers(1, 3),
        group=st.sampled_from([1, 2, 3, 4, 7]),
        head_dim=st.sampled_from([8, 16, 40, 64, 128]),
        block_tokens=st.sampled_from([4, 8, 16, 24]),
        window=st.none() | st.integers(1, longest),
        spare_blocks=st.integers(0, 20),
        seed=st.integers(0, 2**16),
    )


@dataclass(frozen=True)
class Asked:
    """A case's tensors on their device."""

    query: Tensor
    cache: LayerCache
    tables: Tensor
    contexts: Tensor


def ask(case: DecodeCase, device: str) -> Asked:
    """Every row's blocks lie scattered over a cache whose other blocks hold what would spoil an answer."""
    dice = torch.Generator().manual_seed(case.seed)
    blocks = [-(-context // case.block_tokens) for context in case.contexts]
    total = sum(blocks) + 2
    shape = (total, case.block_tokens, case.kv_heads, case.head_dim)
    places = torch.randperm(total, generator=dice)
    width = max(blocks) + case.spare_blocks
    tables = torch.full((len(blocks), width), -7, dtype=torch.int32)  # never to be followed
    first = 0
    for row, count in enumerate(blocks):
        tables[row, :count] = places[first : first + count]
        first += count
    query = torch.randn(len(blocks), case.kv_heads * case.group, case.head_dim, generator=dice).to(
        DTYPES[case.dtype]
    )
    keys, key_scales = _stored(torch.randn(shape, generator=dice), case)
    values, value_scales = _stored(torch.randn(shape, generator=dice), case)
    cache = LayerCache(*(_to(part, device) for part in (keys, values, key_scales, value_scales)))  # type: ignore[arg-type]
    contexts = torch.tensor(case.contexts, dtype=torch.int32)
    return Asked(query.to(device), cache, tables.to(device), contexts.to(device))


def _to(tensor: Tensor | None, device: str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _stored(numbers: Tensor, case: DecodeCase) -> tuple[Tensor, Tensor | None]:
    if case.cache_kind == "int8":
        scales = numbers.abs().amax(-1) / 127
        return (numbers / scales[..., None]).round().to(torch.int8), scales
    if case.cache_kind == "fp8":
        return numbers.to(torch.float8_e4m3fn), None
    return numbers.to(DTYPES[case.dtype]), None


def assert_rows_see_their_contexts(case: DecodeCase, device: str) -> None:
    asked = ask(case, device)
    found = paged_decode(asked.query, asked.cache, asked.tables, asked.contexts, case.window)
    wanted = paged_decode_reference(
        asked.query.float(), asked.cache, asked.tables, asked.contexts, case.window
    )
    assert found.dtype == asked.query.dtype
    worst = (found.float() - wanted).abs().max()
    assert worst <= TOLERANCE[case.dtype] * wanted.abs().max().clamp(min=1)


def assert_alone_is_together(case: DecodeCase, device: str) -> None:
    """To the bit, and whatever the width of the table."""
    asked = ask(case, device)
    together = paged_decode(asked.query, asked.cache, asked.tables, asked.contexts, case.window)
    for row, context in enumerate(case.contexts):
        one = slice(row, row + 1)
        table = asked.tables[one, : -(-context // case.block_tokens)].contiguous()
        alone = paged_decode(asked.query[one], asked.cache, table, asked.contexts[one], case.window)
        assert torch.equal(alone[0], together[row])
