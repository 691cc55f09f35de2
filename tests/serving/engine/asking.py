"""Ask an engine, and wait for its answers."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LlamaForCausalLM

from serving.engine.engine import Engine, EngineConfig
from serving.engine.loop import Runner
from serving.engine.request import Finished, Progress, Request, SamplingParams
from serving.engine.runner import Followers
from serving.models.decoder import Decoder
from serving.weights import LoadedModel
from tests.serving.engine.fakes import Listener

PATIENCE_SECONDS = 120


class Answers(Listener):
    """A listener that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Semaphore(0)

    def __call__(self, progress: Progress) -> None:
        super().__call__(progress)
        if progress.finished is not None:
            self._ended.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._ended.acquire(timeout=PATIENCE_SECONDS)

    def finished(self, request_id: str) -> Finished:
        end = self.seen[request_id][-1].finished
        assert end is not None
        return end


@contextmanager
def an_engine(
    loaded: LoadedModel,
    runner: Runner | None = None,
    draft_model: Decoder | None = None,
    followers: Followers | None = None,
    **settings: Any,
) -> Iterator[Engine]:
    config = EngineConfig(**({"kv_blocks": 64} | settings))
    engine = Engine(loaded, config, runner, draft_model, followers)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def ask(
    engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams]
) -> list[list[int]]:
    """Token ids of the answers to prompts that are sent at once."""
    answers = Answers()
    for number, (prompt, params) in enumerate(zip(prompts, sampling, strict=True)):
        engine.submit(Request(str(number), prompt, params, time.monotonic_ns()), answers)
    answers.wait(len(prompts))
    return [answers.tokens(str(number)) for number in range(len(prompts))]


def greedy(max_tokens: int = 24) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0)


def some_prompts(count: int) -> list[list[int]]:
    """Mixed lengths: one token, a few, several chunks."""
    dice = random.Random(11)
    lengths = [1, 2, 3, 17, 31, 64, 90, 5, 48, 33][:count]
    return [[dice.randrange(256) for _ in range(length)] for length in lengths]


def reference_answer(model: LlamaForCausalLM, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """What transformers answers greedily, end-of-sequence token and all."""
    with torch.inference_mode():
        ids = torch.tensor([list(prompt)])
        answer = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            pad_token_id=0,
        )
    return answer[0, len(prompt) :].tolist()
