"""Every family beside transformers, in fp32, through the paged cache."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.engine.request import SamplingParams
from serving.models.architectures import read_config
from serving.models.filling import from_checkpoint
from serving.weights import load
from tests.serving.engine.asking import an_engine, ask, reference_answer
from tests.serving.models.families import CONTEXT_TOKENS, FAMILIES, Case, cases, theirs
from tests.serving.models.paged import logits_in_steps
from tests.serving.models.tiny import save_tiny


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def as_saved(model: Any) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads(model.config.to_json_string())
    return saved | {"architectures": [type(model).__name__]}


def as_published(case: Case) -> dict[str, Any]:
    """As older folders have it: only what was chosen, and rope_scaling beside rope_theta."""
    rope = dict(case.config["rope_parameters"])
    config = {name: value for name, value in case.config.items() if name != "rope_parameters"}
    return config | {
        "model_type": case.architecture.lower(),
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": None if rope == {"rope_type": "default"} else rope,
    }


@pytest.mark.parametrize("architecture", FAMILIES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_each_token_of_a_prompt_in_chunks_and_of_an_answer_has_the_logits_of_transformers(
    architecture: str, data: st.DataObject
) -> None:
    case: Case = data.draw(cases(architecture))
    chunks = data.draw(st.lists(st.integers(1, 24), max_size=2))
    tokens = sum(chunks) + data.draw(st.integers(1, 12))
    reference = theirs(case)
    token_ids = torch.randint(61, (tokens,), generator=torch.Generator().manual_seed(case.seed))
    with torch.inference_mode():
        right = reference(token_ids[None]).logits[0]
    config = read_config(as_published(case))
    model = from_checkpoint(config, reference.state_dict(), dtype=torch.float32)
    found = logits_in_steps(model, token_ids.tolist(), chunks)
    assert torch.allclose(found, right, rtol=1e-3, atol=1e-3)
    assert tokens <= CONTEXT_TOKENS
    assert read_config(as_saved(reference)) == config


SHORT = {"use_sliding_window": True, "sliding_window": 24}  # shorter than the prompt below


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("Llama", {"tie_word_embeddings": True}),
        ("Mistral", {"sliding_window": 24, "head_dim": 12}),
        ("Qwen2", SHORT | {"max_window_layers": 1}),
        ("Qwen2", {"tie_word_embeddings": True}),
        ("Qwen3", SHORT | {"layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
        ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
        ("SmolLM3", SHORT | {"no_rope_layers": [1, 0, 1], "pad_token_id": None}),
        ("SmolLM3", {"pad_token_id": None}),
    ],
)
def test_a_folder_of_every_family_answers_greedily_as_transformers_does_alone_and_together(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    reference = save_tiny(architecture, tmp_path, **changes)
    loaded = load(str(tmp_path), dtype=torch.float32, cache_dir=None)
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 35] * 9, [2, 7, 1, 8], [14, 142, 13, 5, 6, 2] * 6]
    right = [reference_answer(reference, prompt, 16) for prompt in prompts]
    greedy = SamplingParams(16, 0.0)
    with an_engine(loaded, max_batch_tokens=32) as engine:
        assert [ask(engine, [prompt], [greedy])[0] for prompt in prompts] == right
        assert ask(engine, prompts, [greedy] * 3) == right
