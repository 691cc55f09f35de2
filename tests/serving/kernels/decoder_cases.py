"""Tiny decoders of every family, and steps for them: the fused step beside the plain modules. For a CPU and for a GPU."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from serving.kernels import triton_decoder
from serving.layers.attention import LayerCache, PagedBatch, Span
from serving.models.architectures import read_config
from serving.models.decoder import Decoder
from serving.models.share import join

BLOCK_TOKENS, BLOCKS = 4, 30
_SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 5},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]},
}


@dataclass(frozen=True)
class DecoderCase:
    """contexts: of the decode rows; prompt: tokens of a prompt beside them, 0 for none."""

    family: str
    contexts: tuple[int, ...]
    prompt: int
    seed: int


def decoder_cases() -> st.SearchStrategy[DecoderCase]:
    return st.builds(
        DecoderCase,
        family=st.sampled_from([*_FAMILIES]),
        contexts=st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple),
        prompt=st.sampled_from([0, 0, 7]),
        seed=st.integers(0, 2**16),
    )


@torch.inference_mode()
def assert_the_step_is_the_plain_modules_step(
    case: DecoderCase, device: str, *, is_a_rank: bool = False
) -> None:
    """The plain modules compute on the CPU: there Decoder.forward is they. is_a_rank: one of a group that there is, where
    the fused step adds up parts."""
    torch.manual_seed(case.seed)
    decoder = Decoder(read_config(_SIZES | _FAMILIES[case.family]))
    for weight in decoder.parameters():
        weight.normal_(0, 0.3)
    theirs = _caches()
    ours = [
        LayerCache(one.keys.to(device, copy=True), one.values.to(device, copy=True))
        for one in theirs
    ]
    token_ids, positions = torch.randint(_SIZES["vocab_size"], (_rows(case),)), _positions(case)
    wanted = decoder(token_ids, positions, theirs, _batch(case, "cpu"))
    batch = _batch(case, device)
    if is_a_rank:
        join(decoder)
    found = triton_decoder.forward(
        decoder.to(device), token_ids.to(device), positions.to(device), ours, batch
    )
    assert_near(found, wanted)
    for one, two in zip(ours, theirs, strict=True):
        assert_near(one.keys, two.keys)
        assert_near(one.values, two.values)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.cpu(), wanted, atol=2e-4, rtol=2e-4)


def _caches() -> list[LayerCache]:
    shape = (BLOCKS, BLOCK_TOKENS, _SIZES["num_key_value_heads"], _SIZES["head_dim"])
    return [LayerCache(*torch.randn(2, *shape)) for _ in range(2)]


def _batch(case: DecoderCase, device: str) -> PagedBatch:
    """Each row's blocks lie one behind the other, the prompt's at the end."""
    width = 20 // BLOCK_TOKENS
    tables = torch.arange(len(case.contexts) * width, dtype=torch.int32).view(-1, width)
    slots = [
        int(tables[row, (context - 1) // BLOCK_TOKENS]) * BLOCK_TOKENS
        + (context - 1) % BLOCK_TOKENS
        for row, context in enumerate(case.contexts)
    ]
    first = len(case.contexts) * width
    slots += range(first * BLOCK_TOKENS, first * BLOCK_TOKENS + case.prompt)
    blocks = torch.arange(first, first + -(-case.prompt // BLOCK_TOKENS)).to(device)
    span = Span(len(case.contexts), case.prompt, case.prompt, blocks)
    return PagedBatch(
        slots=torch.tensor(slots).to(device),
        tables=tables.to(device),
        contexts=torch.tensor(case.contexts, dtype=torch.int32).to(device),
        spans=[span] if case.prompt else [],
    )


def _rows(case: DecoderCase) -> int:
    return len(case.contexts) + case.prompt


def _positions(case: DecoderCase) -> torch.Tensor:
    return torch.tensor([*(context - 1 for context in case.contexts), *range(case.prompt)])
