"""What becomes of an engine over several ranks, and of these, when one of them ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from serving.engine.engine import Engine
from serving.engine.request import EngineFailed, FinishReason, Request, SamplingParams
from serving.parallel.leader import Leader, leading
from serving.weights import LoadedModel
from tests.serving.engine.asking import Answers, an_engine
from tests.serving.models.tiny import save_tiny_llama
from tests.serving.parallel.ranks import a_task, over_ranks
from tests.serving.server.serving_here import eventually

PROMPT = [2, 7, 1, 8]
GREEDY = SamplingParams(16, 0.0)
FOREVER = SamplingParams(10_000, 0.0, ignore_eos=True)

Ranks = tuple[LoadedModel, Leader]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_llama(folder, max_position_embeddings=100_000)
    return folder


@pytest.fixture
def ranks(folder: Path) -> Iterator[Ranks]:
    with over_ranks(folder) as ranks:
        yield ranks


def under_way(engine: Engine, answers: Answers) -> None:
    engine.submit(Request("long", PROMPT, FOREVER, time.monotonic_ns()), answers)
    eventually(lambda: engine.stats().generated_tokens > 5, "an answer")


def test_a_rank_that_ends_ends_the_engine_and_is_named(ranks: Ranks) -> None:
    loaded, leader = ranks
    answers = Answers()
    with an_engine(loaded, followers=leader, kv_blocks=1_000) as engine:
        assert engine.stats().failure == ""
        under_way(engine, answers)
        (pid,) = leader.pids
        os.kill(pid, signal.SIGKILL)
        answers.wait(1)
        end = answers.finished("long")
        assert end.reason is FinishReason.ERROR
        said = f"rank 1 (process {pid}) ended: exit code -9; restart the server"
        assert end.error == said
        eventually(lambda: engine.stats().failure, "the failure")
        assert engine.stats().failure == said
        with pytest.raises(EngineFailed, match="rank 1"):
            engine.submit(Request("next", [1], GREEDY, time.monotonic_ns()), answers)


def test_a_rank_that_ends_while_nobody_asks_is_noticed(ranks: Ranks) -> None:
    loaded, leader = ranks
    with an_engine(loaded, followers=leader) as engine:
        os.kill(leader.pids[0], signal.SIGKILL)
        eventually(lambda: "rank 1" in engine.stats().failure, "the failure")
    with pytest.raises(EngineFailed, match="rank 1"):
        leader.check()


def test_an_engine_does_not_start_without_all_of_its_ranks(ranks: Ranks) -> None:
    loaded, leader = ranks
    os.kill(leader.pids[0], signal.SIGKILL)
    with pytest.raises(EngineFailed, match="rank 1"), an_engine(loaded, followers=leader):
        pass


def test_signals_to_stop_are_for_the_first_rank(ranks: Ranks) -> None:
    """Whoever stops a service tells all of its processes; open requests need all ranks until they are answered."""
    loaded, leader = ranks
    answers = Answers()
    with an_engine(loaded, followers=leader, kv_blocks=1_000) as engine:
        under_way(engine, answers)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(leader.pids[0], number)
        before = engine.stats().generated_tokens
        eventually(lambda: engine.stats().generated_tokens > before + 5, "more of the answer")
        assert engine.stats().failure == ""


def test_a_rank_that_can_not_load_says_why(tmp_path: Path) -> None:
    task = a_task(tmp_path / "nowhere")
    why = r"rank 1 \(process \d+\) ended: '.*nowhere' is no model"
    with leading(task, 2) as leader, pytest.raises(EngineFailed, match=why):
        leader.wait_until_ready()


def test_gpus_are_counted_before_anything_begins(tmp_path: Path) -> None:
    gpus = torch.cuda.device_count()
    task = replace(a_task(tmp_path), device="cuda")
    with pytest.raises(ValueError, match=f"={gpus + 1}: torch sees {gpus} GPUs"):
        leading(task, gpus + 1).__enter__()
    with pytest.raises(ValueError, match="use 'cuda', and choose GPUs with CUDA_VISIBLE_DEVICES"):
        leading(replace(task, device="cuda:1"), 2).__enter__()


_LEADS = """
import sys, time
from pathlib import Path
from tests.serving.parallel.ranks import over_ranks
with over_ranks(Path(sys.argv[1])) as (_, leader):
    print(*leader.pids, flush=True)
    time.sleep(600)
"""


def is_there(pid: int) -> bool:
    """And is no zombie, which only waits for a parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux' list of processes")
def test_no_rank_outlives_the_first_one_however_it_ends(folder: Path) -> None:
    command = [sys.executable, "-c", _LEADS, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        (pid,) = map(int, leader.stdout.readline().split())
        assert is_there(pid)
        leader.kill()
    eventually(lambda: not is_there(pid), "the end of the other rank")
