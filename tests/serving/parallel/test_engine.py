"""An engine over two ranks: its answers and its time."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.engine.request import Request, SamplingParams
from serving.parallel.leader import Leader
from serving.weights import LoadedModel, load
from tests.serving.engine.asking import Answers, an_engine, ask
from tests.serving.models.tiny import save_tiny_llama
from tests.serving.parallel.ranks import over_ranks

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 35] * 9, [2, 7, 1, 8], [14, 142, 13, 5, 6, 2] * 6]
GREEDY = SamplingParams(16, 0.0)
DICE = SamplingParams(16, 0.9, seed=3)

Ranks = tuple[LoadedModel, Leader]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_llama(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Iterator[Ranks]:
    with over_ranks(folder) as ranks:
        yield ranks


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"overlap": True},
        {"overlap": True, "cuda_graphs": True},
        {"speculate": "ngram:3"},
        {"kv_cache_dtype": "int8"},
    ],
    ids=["plain", "overlapping", "padded as graphs are", "speculating", "with a rounded cache"],
)
def test_answers_are_those_of_one_process(ranks: Ranks, folder: Path, how: dict[str, Any]) -> None:
    """Greedy ones and drawn ones, in one batch; with overlap, tokens that only the first rank knows go to the other."""
    loaded, leader = ranks
    whole = load(str(folder), dtype=torch.float32, cache_dir=None)
    sampling = [GREEDY, DICE, GREEDY]
    with an_engine(whole, max_batch_tokens=32, **how) as engine:
        right = ask(engine, PROMPTS, sampling)
    with an_engine(loaded, followers=leader, max_batch_tokens=32, **how) as engine:
        assert ask(engine, PROMPTS, sampling) == right


def a_crowd(count: int) -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts of all lengths; greedy, drawn and penalized answers."""
    dice = random.Random(5)
    prompts = [
        [dice.randrange(1, 250) for _ in range(dice.choice([1, 3, 17, 40, 90]))]
        for _ in range(count)
    ]
    wishes: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.9, "top_p": 0.9, "seed": 3},
        {"temperature": 0.0, "repetition_penalty": 1.2, "logprobs": 2},
    ]
    return prompts, [
        SamplingParams(dice.randrange(1, 40), **dice.choice(wishes)) for _ in range(count)
    ]


def test_a_crowd_that_has_to_make_room_is_answered_as_by_one_process(
    ranks: Ranks, folder: Path
) -> None:
    """Steps overlap, come padded and not, and lose whom there is no room for: no rank goes out of step."""
    loaded, leader = ranks
    prompts, sampling = a_crowd(24)
    how = {
        "kv_blocks": 40,
        "block_tokens": 8,
        "max_batch_tokens": 48,
        "max_batch_requests": 6,
        "overlap": True,
        "cuda_graphs": True,
    }
    whole = load(str(folder), dtype=torch.float32, cache_dir=None)
    with an_engine(whole, **how) as engine:
        right = ask(engine, prompts, sampling)
    with an_engine(loaded, followers=leader, **how) as engine:
        assert ask(engine, prompts, sampling) == right
        assert engine.stats().preemptions > 0


def test_a_model_that_proposes_is_the_first_ranks_alone(ranks: Ranks, folder: Path) -> None:
    loaded, leader = ranks
    whole = load(str(folder), dtype=torch.float32, cache_dir=None)
    with an_engine(whole) as engine:
        right = ask(engine, PROMPTS, [GREEDY] * 3)
    config = {"speculate": f"draft:{folder}:3", "draft_model": whole.model}
    with an_engine(loaded, followers=leader, **config) as engine:
        assert ask(engine, PROMPTS, [GREEDY] * 3) == right
        assert engine.stats().accepted_draft_tokens > 0


def test_a_steps_time_counts_once_for_each_device(ranks: Ranks) -> None:
    loaded, leader = ranks
    with an_engine(loaded, followers=leader) as engine:
        answers = Answers()
        for number, prompt in enumerate(PROMPTS):
            engine.submit(Request(str(number), prompt, GREEDY, time.monotonic_ns()), answers)
        answers.wait(3)
        clocks = engine.clocks()
    charged_ns = sum(answers.finished(str(number)).device_ns for number in range(3))
    assert len(clocks) == 2
    for clock in clocks:
        assert charged_ns == 2 * clock.attributed_ns > 0
        assert clock.attributed_ns + clock.unattributed_ns + clock.idle_ns == clock.wall_ns
