"""Several ranks compute what one process does."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from serving.engine.paged_model import PagedModel, PagedSizes
from serving.engine.prepare import prepare
from serving.engine.request import SamplingParams
from serving.engine.slices import Slice
from serving.engine.step import host_step
from serving.parallel.leader import Leader
from serving.weights import LoadedModel, load
from tests.serving.models.tiny import save_tiny
from tests.serving.parallel.ranks import over_ranks

SIZES = PagedSizes(blocks=40, block_tokens=4, cache_dtype=torch.float32)


def steps() -> Iterator[list[Slice]]:
    """Two prompts in chunks, one beside the other's answer, and then both answers."""
    dice = random.Random(7)
    tokens = [[dice.randrange(250) for _ in range(60)] for _ in range(2)]
    tables = [tuple(range(request, 40, 2)) for request in range(2)]

    def part(request: int, start: int, end: int, *, decodes: bool = False) -> Slice:
        return Slice(
            request_id=str(request),
            token_ids=tuple(tokens[request][start:end]),
            start=start,
            block_table=tables[request],
            samples=True,
            is_decode=decodes,
            sampling=SamplingParams(1, 0.0),
            seed=0,
            position=0,
        )

    yield [part(0, 0, 9)]
    yield [part(0, 9, 30), part(1, 0, 3)]
    yield [part(0, 30, 31, decodes=True), part(1, 3, 37)]
    for place in range(1, 6):
        yield [
            part(0, 30 + place, 31 + place, decodes=True),
            part(1, 36 + place, 37 + place, decodes=True),
        ]


@torch.inference_mode()
def logits(loaded: LoadedModel, leader: Leader | None = None) -> Tensor:
    """Of every row of the steps after which a token is chosen."""
    paged = PagedModel(loaded.model, SIZES)
    if leader is not None:
        leader.build(SIZES)
    found = []
    for slices in steps():
        plan = host_step(slices, block_tokens=4, scratch_block=40, pad_to=4)
        if leader is None:
            found.append(paged.run(plan, None)[0])
            continue
        with leader.computing(plan, None):
            found.append(paged.run(plan, None)[0])
    return torch.cat(found)


VARIANTS: list[tuple[str, int, dict[str, Any]]] = [
    ("Llama", 2, {"attention_bias": True, "mlp_bias": True, "vocab_size": 259}),
    # four heads of keys and values for one: each is computed by two ranks
    ("Llama", 4, {"tie_word_embeddings": True, "vocab_size": 259}),
    ("Mistral", 2, {"sliding_window": 24, "head_dim": 12}),
    ("Qwen2", 2, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("Qwen3", 2, {"head_dim": 16}),
    ("SmolLM3", 2, {"no_rope_layers": [1, 0, 1], "pad_token_id": None}),
]


@pytest.mark.parametrize(("family", "ranks", "changes"), VARIANTS)
def test_the_logits_of_every_family_are_those_of_one_process(
    tmp_path: Path, family: str, ranks: int, changes: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    save_tiny(family, tmp_path, **changes)
    right = logits(load(str(tmp_path), dtype=torch.float32, cache_dir=None))
    with over_ranks(tmp_path, ranks) as (loaded, leader):
        found = logits(loaded, leader)
    assert (found - right).abs().max() < 1e-5 * right.abs().max()


def test_quantized_weights_are_dealt_out_as_well(tmp_path: Path) -> None:
    """Groups of int4 are the same on every rank."""
    torch.set_num_threads(1)
    save_tiny("Llama", tmp_path, intermediate_size=128)
    whole = load(str(tmp_path), dtype=torch.float32, cache_dir=None)
    prepare(whole, scheme="int4")
    right = logits(whole)
    with over_ranks(tmp_path, scheme="int4") as (loaded, leader):
        found = logits(loaded, leader)
    assert "int4" in repr(loaded.model.layers[0].mlp.down_proj)
    assert (found - right).abs().max() < 1e-5 * right.abs().max()
