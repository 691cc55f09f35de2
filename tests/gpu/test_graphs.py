"""Captured decode steps beside the same steps called one by one."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from serving.engine.graphs import FROM_HOST, Decoded, DecodeGraphs, HostBatch
from serving.layers.attention import LayerCache
from serving.weights import LoadedModel

pytestmark = pytest.mark.gpu

ROWS, WIDTH, BLOCK_TOKENS = 5, 6, 8


def caches(tiny: LoadedModel, dtype: torch.dtype) -> list[LayerCache]:
    config = tiny.config
    shape = (ROWS * WIDTH + 1, BLOCK_TOKENS, config.num_key_value_heads, config.head_dim)

    def one() -> LayerCache:
        blocks = [torch.zeros(shape, device="cuda").to(dtype) for _ in range(2)]
        scales = [torch.zeros(shape[:-1], device="cuda") for _ in range(2)]
        return LayerCache(*blocks, *(scales if dtype == torch.int8 else (None, None)))

    return [one() for _ in range(config.num_hidden_layers)]


def graphs(tiny: LoadedModel, dtype: torch.dtype, *, captures: bool) -> DecodeGraphs:
    made = DecodeGraphs(
        tiny.model,
        caches(tiny, dtype),
        max_requests=ROWS,
        max_blocks=WIDTH,
        block_tokens=BLOCK_TOKENS,
        scratch_slot=ROWS * WIDTH * BLOCK_TOKENS,
        captures=captures,
    )
    captured = made.capture()
    assert captured.graphs == (len(made.buckets) if captures else 0)
    return made


def steps() -> Iterator[HostBatch]:
    """Sequences that all begin with a token of the host's and go on with their own; now and then one leaves."""
    tables = np.arange(ROWS * WIDTH, dtype=np.int32).reshape(ROWS, WIDTH)
    for step in range(WIDTH * BLOCK_TOKENS):
        rows = ROWS - step // 12
        block, offset = divmod(step, BLOCK_TOKENS)
        numbers = np.arange(rows, dtype=np.int32)
        yield HostBatch(
            token_ids=7 * numbers + 3,
            sources=numbers if step else np.full(rows, FROM_HOST, dtype=np.int32),
            positions=np.full(rows, step, dtype=np.int32),
            slots=tables[:rows, block] * BLOCK_TOKENS + offset,
            contexts=np.full(rows, step + 1, dtype=np.int32),
            tables=tables[:rows],
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float8_e4m3fn])
def test_a_replayed_step_is_the_called_one(tiny: LoadedModel, dtype: torch.dtype) -> None:
    replayed, called = (graphs(tiny, dtype, captures=captures) for captures in (True, False))
    for batch in steps():
        found, wanted = replayed.run(batch), called.run(batch)
        torch.testing.assert_close(found.logits, wanted.logits, atol=1e-3, rtol=1e-3)
        assert found.token_ids.tolist() == wanted.token_ids.tolist()


def test_steps_need_not_wait_for_each_other(tiny: LoadedModel) -> None:
    """All steps are launched before the first one is looked at: nothing that is under way is written over."""
    replayed = graphs(tiny, torch.float32, captures=True)
    called = graphs(tiny, torch.float32, captures=False)
    wanted = [called.run(batch).token_ids.tolist() for batch in steps()]
    kept = [kept_tokens(replayed.run(batch)) for batch in steps()]
    assert [tokens.tolist() for tokens in kept] == wanted


def kept_tokens(decoded: Decoded) -> torch.Tensor:
    """On the device, before the next step writes over them."""
    return decoded.token_ids.clone()
