"""The engine on a device."""

import time

import pytest
from transformers import LlamaForCausalLM

from serving.engine.request import Request, SamplingParams
from serving.quantize.model import quantize
from serving.weights import LoadedModel
from tests.gpu.conftest import on_the_gpu
from tests.serving.engine.asking import (
    Answers,
    an_engine,
    ask,
    greedy,
    reference_answer,
    some_prompts,
)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_greedy_answers_are_those_of_transformers_alone_and_together(
    tiny: LoadedModel, tiny_reference: LlamaForCausalLM, cuda_graphs: bool
) -> None:
    prompts = some_prompts(10)
    right = [reference_answer(tiny_reference, prompt, 24) for prompt in prompts]
    with an_engine(tiny, max_batch_tokens=40, block_tokens=8, cuda_graphs=cuda_graphs) as engine:
        alone = [ask(engine, [prompt], [greedy()])[0] for prompt in prompts]
        together = ask(engine, prompts, [greedy()] * len(prompts))
    assert alone == right
    assert together == right


def test_the_same_seed_gives_the_same_answer_beside_anybody(tiny: LoadedModel) -> None:
    prompts = some_prompts(6)
    dice = SamplingParams(max_tokens=20, temperature=0.9, top_p=0.95, seed=42)
    others = [SamplingParams(max_tokens=15, temperature=1.2, seed=i) for i in range(5)]
    with an_engine(tiny, max_batch_tokens=40) as engine:
        (alone,) = ask(engine, prompts[:1], [dice])
        beside = ask(engine, prompts, [dice, *others])
    assert beside[0] == alone


def test_device_time_is_conserved(tiny: LoadedModel) -> None:
    with an_engine(tiny) as engine:
        answers = Answers()
        for number, prompt in enumerate(some_prompts(8)):
            engine.submit(Request(str(number), prompt, greedy(30), time.monotonic_ns()), answers)
        answers.wait(8)
        clock = engine.clock()
    ends = [answers.finished(str(number)) for number in range(8)]
    assert all(end.device_ns > 0 for end in ends)
    assert sum(end.device_ns for end in ends) == clock.attributed_ns
    assert clock.attributed_ns + clock.unattributed_ns + clock.idle_ns == clock.wall_ns


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
def test_a_quantized_model_answers_the_same_alone_and_together(
    tiny_cpu: LoadedModel, scheme: str
) -> None:
    loaded = on_the_gpu(tiny_cpu)
    quantize(loaded.model, scheme, head=True)
    prompts = some_prompts(6)
    with an_engine(loaded, max_batch_tokens=40) as engine:
        alone = [ask(engine, [prompt], [greedy()])[0] for prompt in prompts]
        together = ask(engine, prompts, [greedy()] * len(prompts))
    assert together == alone
