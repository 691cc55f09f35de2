"""Many requests at once, and what the device could do for them at best."""

import queue
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from benchmarks.gpu.measuring import Bench, Ceilings
from benchmarks.gpu.shapes import BLOCK_TOKENS, Shape, bytes_read, random_model
from serving.engine.engine import Engine, EngineConfig
from serving.engine.request import DeviceClock, Progress, Request, SamplingParams
from serving.models.decoder import Decoder
from serving.weights import LoadedModel

_PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its prompt, and how many tokens it is to get."""

    prompt: tuple[int, ...]
    answer_tokens: int


def random_requests(bench: Bench, shape: Shape, count: int) -> list[Asked]:
    """count requests of 100–1,024 tokens in and out, the same in every run."""
    dice = random.Random(23)
    low, high = (3, 12) if bench.smoke else (100, 1024)

    def prompt() -> tuple[int, ...]:
        return tuple(dice.randrange(shape.vocab_size) for _ in range(dice.randint(low, high)))

    return [Asked(prompt(), dice.randint(low, high)) for _ in range(count)]


def tokens_of(requests: Sequence[Asked]) -> int:
    """Output tokens of them all."""
    return sum(asked.answer_tokens for asked in requests)


def ideal_seconds(
    requests: Sequence[Asked], shape: Shape, weight_bytes: int, ceilings: Ceilings, kv_bytes: int
) -> float:
    """All prompts at the measured product's speed, then all answers at once at the copy's: step i reads the
    weights and the contexts of those that are longer than i tokens.

    kv_bytes   of one token in the cache.
    """
    prompts = sum(shape.prefill_flops(len(asked.prompt)) for asked in requests)
    read = 0
    for step in range(1, max(asked.answer_tokens for asked in requests)):
        contexts = [len(a.prompt) + step for a in requests if a.answer_tokens > step]
        read += weight_bytes + sum(contexts) * kv_bytes
    return prompts / ceilings.bf16_flops + read / ceilings.copied_bytes_per_second


class Numbers:
    """A tokenizer of nothing: a token's text is its number, and no token ends an answer."""

    eos_token_ids: Collection[int] = frozenset()

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(f"{token} " for token in token_ids)


def engine_config(**wanted: Any) -> EngineConfig:
    """The fields of these that an engine has."""
    known = {field.name for field in fields(EngineConfig)}
    return EngineConfig(**{name: value for name, value in wanted.items() if name in known})


@contextmanager
def running_engine(
    bench: Bench, shape: Shape, *, memory_share: float = 0.8, **changes: Any
) -> Iterator[tuple[Engine, Decoder]]:
    """An engine over a random model of the shape, warmed up; and the model.

    memory_share   of what the weights leave free, for the KV cache: the rest is for activations and graphs.
    """
    model = random_model(shape, bench.device, bench.dtype)
    loaded = LoadedModel(model, Numbers(), model.config, shape.title)  # type: ignore[arg-type]
    sizes = {
        "max_batch_tokens": bench.sized(4096, 64),
        "max_batch_requests": bench.sized(256, 8),
        "kv_cache_bytes": _cache_bytes(bench, memory_share),
        "block_tokens": BLOCK_TOKENS,
        "max_waiting": 1024,
        "threads": 1,
        "cuda_graphs": True,
        "overlap": True,
        "prefix_cache": False,
    }
    engine = Engine(loaded, engine_config(**sizes | changes))
    engine.start()
    try:
        yield engine, model
    finally:
        engine.stop()


def _cache_bytes(bench: Bench, share: float) -> int:
    if bench.device.type != "cuda":
        return 2**24
    free, _ = torch.cuda.mem_get_info(bench.device)
    return int(share * free)


@dataclass(frozen=True, slots=True)
class Served:
    """How long the engine took for all of some requests, and its clock when it was in the middle of them."""

    seconds: float
    output_tokens: int
    busiest: tuple[DeviceClock, DeviceClock]


def serve(engine: Engine, requests: Sequence[Asked]) -> Served:
    """Ask everything at once, wait for everything."""
    progress: queue.SimpleQueue[Progress] = queue.SimpleQueue()
    began = time.perf_counter()
    for number, asked in enumerate(requests):
        engine.submit(_request(number, asked), progress.put)
    tokens, ended, clocks = 0, 0, []
    # From a quarter of the answers on until the first half of the requests has ended, nobody is idle for want of work.
    marks = [_after_tokens(tokens_of(requests) // 4), _after_ends(len(requests) // 2)]
    while ended < len(requests):
        news = progress.get(timeout=_PATIENCE_SECONDS)
        tokens += len(news.token_ids)
        ended += news.finished is not None
        if marks and marks[0](tokens, ended):
            marks.pop(0)
            clocks.append(engine.clock())
    return Served(time.perf_counter() - began, tokens, (clocks[0], clocks[-1]))


def _after_tokens(wanted: int) -> Callable[[int, int], bool]:
    return lambda tokens, _ended: tokens >= wanted


def _after_ends(wanted: int) -> Callable[[int, int], bool]:
    return lambda _tokens, ended: ended >= wanted


def _request(number: int, asked: Asked) -> Request:
    sampling = SamplingParams(asked.answer_tokens, temperature=0.0, ignore_eos=True)
    return Request(f"{time.monotonic_ns()}-{number}", asked.prompt, sampling, time.monotonic_ns())


def ideal_for(bench: Bench, shape: Shape, model: Decoder, requests: Sequence[Asked]) -> float:
    kv_bytes = shape.kv_bytes_of_a_token(bench.dtype)
    return ideal_seconds(requests, shape, bytes_read(model), bench.ceilings, kv_bytes)
