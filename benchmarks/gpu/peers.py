"""transformers on the same device with the same shapes, its weights as random as ours."""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.gpu.measuring import Bench, seconds_of
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.traffic import Asked

INSTALLED = find_spec("transformers") is not None

_FEW_TOKENS, _MORE_TOKENS = 4, 20
_BATCHES = (64, 128, 256)


def model_of(bench: Bench, shape: Shape):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(17)
    with torch.device(bench.device):
        config = LlamaConfig(**shape.config, dtype=bench.dtype)
        model = LlamaForCausalLM._from_config(config, dtype=bench.dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


@dataclass(frozen=True, slots=True)
class StaticBatches:
    """generate() with the batch that is best for it. seconds is what all requests would take."""

    batch: int
    seconds: float
    step_seconds: float


def best_static_batches(
    bench: Bench, shape: Shape, requests: Sequence[Asked], model: Any
) -> StaticBatches:
    """Requests in the order of their answers' lengths, so that a batch waits little for its longest answer.

    A batch's steps are not all run: _MORE_TOKENS are, after a prompt of the requests' mean length, and the rest is
    taken to go on like these. That favours transformers, whose later steps read longer contexts.
    """
    sizes = [bench.sized(size, size // 32) for size in _BATCHES]
    tried = [
        found
        for size in sizes
        if (found := _static(bench, shape, requests, model, size)) is not None
    ]
    if not tried:
        raise RuntimeError(f"none of the batches {sizes} fits into the device's memory")
    return min(tried, key=lambda one: one.seconds)


def _static(
    bench: Bench, shape: Shape, requests: Sequence[Asked], model: Any, batch: int
) -> StaticBatches | None:
    """None where the batch does not fit into memory: its cache would grow to the longest prompt and answer."""
    mean = sum(len(asked.prompt) for asked in requests) // len(requests)
    longest = max(asked.answer_tokens for asked in requests)
    if bench.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(bench.device)
        if batch * (mean + longest) * shape.kv_bytes_of_a_token(bench.dtype) > 0.9 * free:
            return None
    ids = torch.randint(shape.vocab_size, (batch, mean), device=bench.device)

    def generate(tokens: int) -> float:
        return seconds_of(lambda: _generate(model, ids, tokens), bench.device)

    generate(2)
    few, more = generate(_FEW_TOKENS), generate(_MORE_TOKENS)
    step = max(more - few, 1e-9) / (_MORE_TOKENS - _FEW_TOKENS)
    prompt = max(few - _FEW_TOKENS * step, 0.0)
    answers = sorted(asked.answer_tokens for asked in requests)
    steps = sum(
        answers[min(end, len(answers)) - 1] for end in range(batch, len(answers) + batch, batch)
    )
    batches = math.ceil(len(answers) / batch)
    return StaticBatches(batch, batches * prompt + steps * step, step)


@torch.inference_mode()
def _generate(model: Any, ids: torch.Tensor, tokens: int) -> None:
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
    )


@torch.no_grad()
def continuous_batching_seconds(
    bench: Bench,
    model: Any,
    requests: Sequence[Asked],
    answer_tokens: int,
) -> float:
    """generate_batch(), which gives every request answer_tokens tokens; the second time, with everything set up.

    Without flash-attn it takes its slow path. Raises RuntimeError where answers are missing: it only logs why.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    wanted = GenerationConfig(
        max_new_tokens=answer_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    blocks = ContinuousBatchingConfig(num_blocks=64) if bench.smoke else None
    prompts = [list(asked.prompt) for asked in requests]
    answers: list[Any] = []

    def answer() -> None:
        answers[:] = model.generate_batch(
            prompts, wanted, continuous_batching_config=blocks, persistent_manager=True
        ).values()

    answer()
    seconds = seconds_of(answer, bench.device)
    found = [len(one.generated_tokens) for one in answers]
    if found != [answer_tokens] * len(requests):
        raise RuntimeError(f"it gave {found} tokens, each was to be {answer_tokens}")
    return seconds


def forget() -> None:
    """Give a dropped model's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
