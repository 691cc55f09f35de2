"""Models whose frequencies depend on the length of a sequence, beside transformers, below and beyond the original context."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from serving.layers.rotary import Rope
from serving.layers.rotary_by_length import kind_of_keys
from serving.models.architectures import read_config
from serving.models.config import DecoderConfig
from serving.models.filling import from_checkpoint
from serving.models.unsupported import UnsupportedModel
from serving.weights import LoadedModel, load
from tests.serving.engine.asking import an_engine, ask, greedy, reference_answer
from tests.serving.models.families import Case, theirs
from tests.serving.models.paged import logits_in_steps
from tests.serving.models.test_families import as_published, as_saved
from tests.serving.models.tiny import save_tiny_llama

ORIGINAL = 16  # tokens that the models were trained on
HALF_DIM = 4
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "short_factor": [1.0, 1.1, 1.5, 2.0],
    "long_factor": [1.2, 2.0, 4.0, 5.0],
    "original_max_position_embeddings": ORIGINAL,
}
LONGEST = {"dynamic": ORIGINAL, "longrope": 4 * ORIGINAL}  # max_position_embeddings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def ropes() -> st.SearchStrategy[dict[str, Any]]:
    dynamic = st.sampled_from([2.0, 4.0, 8.0]).map(lambda factor: DYNAMIC | {"factor": factor})
    more = st.sampled_from([{}, {"factor": 4.0}, {"factor": 1.0}, {"attention_factor": 1.3}])
    return dynamic | more.map(lambda said: LONGROPE | said)


@st.composite
def long_cases(draw: st.DrawFn) -> Case:
    rope = draw(ropes())
    kv_heads = draw(st.sampled_from([1, 2]))
    heads = kv_heads * draw(st.sampled_from([1, 2]))
    config = {
        "vocab_size": 61,
        "hidden_size": 2 * HALF_DIM * heads,
        "intermediate_size": 24,
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * HALF_DIM,
        "max_position_embeddings": LONGEST[rope["rope_type"]],
        "tie_word_embeddings": False,
        "rope_parameters": rope,
    }
    return Case(draw(st.sampled_from(["Llama", "Qwen3"])), config, draw(st.integers(0, 999)))


def logits_of_transformers(case: Case, token_ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """The prompt at once, then token by token; by a model of its own, which remembers how long sequences were."""
    model = theirs(case)
    with torch.inference_mode():
        said = model(token_ids[None, :prompt], use_cache=True)
        logits = [said.logits[0]]
        for token_id in token_ids[prompt:]:
            cache = said.past_key_values
            said = model(token_id.view(1, 1), past_key_values=cache, use_cache=True)
            logits.append(said.logits[0])
    return torch.cat(logits)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(case=long_cases(), data=st.data())
def test_tokens_beyond_the_original_context_have_the_logits_of_transformers(
    case: Case, data: st.DataObject
) -> None:
    chunks = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    prompt = sum(chunks)
    answer = data.draw(st.integers(0, min(12, 4 * ORIGINAL - prompt)))
    dice = torch.Generator().manual_seed(case.seed)
    token_ids = torch.randint(61, (prompt + answer,), generator=dice)
    right = logits_of_transformers(case, token_ids, prompt)
    config = read_config(as_published(case))
    model = from_checkpoint(config, theirs(case).state_dict(), dtype=torch.float32)
    found = logits_in_steps(model, token_ids.tolist(), chunks)
    assert torch.allclose(found, right, rtol=1e-3, atol=1e-3)
    assert read_config(as_saved(theirs(case))) == config


def a_folder(folder: Any, rope: dict[str, Any]) -> tuple[LlamaForCausalLM, LoadedModel]:
    changes = {"rope_parameters": rope, "max_position_embeddings": LONGEST[rope["rope_type"]]}
    reference = save_tiny_llama(folder, **changes)
    return reference, load(str(folder), dtype=torch.float32, cache_dir=None)


@pytest.mark.parametrize("rope", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
@pytest.mark.parametrize(
    "way", [{}, {"cuda_graphs": True, "overlap": True}, {"kv_blocks": 22}, {"speculate": "ngram:3"}]
)
def test_a_folder_answers_as_transformers_does_where_prompts_begin_alike(
    tmp_path: Any, rope: dict[str, Any], way: dict[str, Any]
) -> None:
    """Alone and together, from kept keys and after preemptions: keys of one beginning differ with the prompt's length."""
    reference, loaded = a_folder(tmp_path, rope)
    begin = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]
    prompts = [begin[:9], begin[:14], [*begin, 9, 3, 2], [*begin, *begin, 3], [*begin, 9, 3, 2, 3]]
    right = [reference_answer(copy.deepcopy(reference), prompt, 24) for prompt in prompts]
    with an_engine(loaded, max_batch_tokens=12, max_batch_requests=4, block_tokens=4, **way) as e:
        assert e.context_tokens == 4 * ORIGINAL
        assert ask(e, prompts, [greedy()] * len(prompts)) == right
        assert [ask(e, [prompt], [greedy()])[0] for prompt in prompts] == right


@given(rope=ropes(), tokens=st.integers(1, 100))
def test_within_the_original_context_all_prompts_share_their_keys(
    rope: dict[str, Any], tokens: int
) -> None:
    said = read_config(_said(rope)).rope
    kinds = [kind_of_keys([said], one) for one in (1, ORIGINAL, tokens)]
    assert kinds[0] == kinds[1]
    assert (kinds[1] == kinds[2]) == (tokens <= ORIGINAL)
    assert kind_of_keys([Rope(), Rope()], tokens) == kind_of_keys([Rope(), Rope()], 1)


def _said(rope: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 61,
        "hidden_size": 4 * HALF_DIM,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": LONGEST[rope["rope_type"]],
        "rope_parameters": rope,
    }


def test_long_prompts_share_keys_under_longrope_and_by_length_under_dynamic_ntk() -> None:
    kinds = {
        name: [kind_of_keys([read_config(_said(rope)).rope], tokens) for tokens in (17, 17, 40)]
        for name, rope in (("dynamic", DYNAMIC), ("longrope", LONGROPE))
    }
    pairs = {name: [a == b for a, b in itertools.pairwise(found)] for name, found in kinds.items()}
    assert pairs == {"dynamic": [True, False], "longrope": [True, True]}


def test_a_draft_models_keys_count_too() -> None:
    dynamic = read_config(_said(DYNAMIC)).rope
    assert kind_of_keys([Rope(), dynamic], 17) != kind_of_keys([Rope(), dynamic], 18)


def test_lists_of_another_length_than_the_heads_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"has 3 factors; expected 4, half of head_dim"):
        read_config(_said(LONGROPE | {"long_factor": [1.0, 2.0, 3.0]}))


def test_a_scaling_without_its_numbers_says_which() -> None:
    with pytest.raises(UnsupportedModel, match=r"'longrope' says no 'short_factor'"):
        read_config(_said({"rope_type": "longrope", "factor": 4.0}))


def longest(rope: dict[str, Any]) -> int:
    config: DecoderConfig = read_config(_said(rope))
    return config.max_position_embeddings


def test_dynamic_ntk_reaches_its_factor_times_as_far() -> None:
    assert (longest(DYNAMIC), longest(LONGROPE)) == (4 * ORIGINAL, 4 * ORIGINAL)
