"""One model on two GPUs."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from serving.engine.request import FinishReason, Request, SamplingParams
from tests.serving.engine.asking import (
    Answers,
    an_engine,
    ask,
    greedy,
    reference_answer,
    some_prompts,
)
from tests.serving.parallel.ranks import over_ranks
from tests.serving.server.serving_here import eventually

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_greedy_answers_are_those_of_transformers_and_both_gpus_time_is_charged(
    tiny_folder: Path, tiny_reference: LlamaForCausalLM, cuda_graphs: bool
) -> None:
    prompts = some_prompts(10)
    right = [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]
    settings = {"max_batch_tokens": 40, "block_tokens": 8, "cuda_graphs": cuda_graphs}
    with (
        over_ranks(tiny_folder, device="cuda") as (loaded, leader),
        an_engine(loaded, followers=leader, **settings) as engine,
    ):
        assert ask(engine, prompts, [greedy()] * len(prompts)) == right
        dice = SamplingParams(max_tokens=20, temperature=0.9, seed=42)
        (alone,) = ask(engine, prompts[:1], [dice])
        assert ask(engine, prompts, [dice, *[greedy()] * 9])[0] == alone
        answers = Answers()
        before = engine.clock().attributed_ns
        engine.submit(Request("one", prompts[5], greedy(), time.monotonic_ns()), answers)
        answers.wait(1)
        charged_ns = answers.finished("one").device_ns
        assert charged_ns == 2 * (engine.clock().attributed_ns - before)


def test_a_rank_that_ends_while_the_other_gpu_waits_for_it_ends_the_engine(
    tiny_folder: Path, tiny_reference: LlamaForCausalLM
) -> None:
    answers = Answers()
    forever = SamplingParams(200, 0.0, ignore_eos=True)
    with (
        over_ranks(tiny_folder, device="cuda") as (loaded, leader),
        an_engine(loaded, followers=leader) as engine,
    ):
        engine.submit(Request("long", [2, 7, 1, 8], forever, time.monotonic_ns()), answers)
        eventually(lambda: engine.stats().generated_tokens > 5, "an answer")
        os.kill(leader.pids[0], signal.SIGKILL)
        answers.wait(1)
        end = answers.finished("long")
        assert end.reason is FinishReason.ERROR
        assert "rank 1" in end.error
