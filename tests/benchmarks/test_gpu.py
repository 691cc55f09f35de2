"""The GPU's benchmark on a machine without one: every measure runs, whatever its figures."""

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import GROUPS, report, rows_of
from benchmarks.gpu.measuring import Bench, Ceilings, Row
from benchmarks.gpu.shapes import EIGHT_B, ONE_B, SIX_TENTHS_B, TINY, bytes_read, random_model
from benchmarks.gpu.traffic import Asked, ideal_seconds

ROOT = Path(__file__).parents[2]
CEILINGS = Ceilings(copied_bytes_per_second=1e9, bf16_flops=1e12)
BENCH = Bench(torch.device("cpu"), True, CEILINGS)
# What a CPU can't be asked about, or what is not there to be measured.
NOT_HERE = {
    "attribution on against off, throughput lost",
    "products of 1–64 rows, library / ours",
}


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def table_of(text: str) -> dict[str, str]:
    """What was found, by measure."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]
    return {row[0]: row[1] for row in cells}


@pytest.mark.slow
def test_every_measure_runs_with_a_tiny_model() -> None:
    done = run_benchmark("--smoke")
    assert done.returncode == 0, done.stderr
    found = table_of(done.stdout)
    assert len(found) >= 21
    unmeasured = {measure for measure, value in found.items() if value == "not measured"}
    assert unmeasured <= NOT_HERE, done.stdout


@pytest.mark.slow
def test_a_group_in_a_process_of_its_own_gives_its_rows() -> None:
    done = run_benchmark("--smoke", "--processes", "--only", "batches-8b")
    assert done.returncode == 0, done.stderr
    assert [*table_of(done.stdout)] == [
        "decode at batch 3, 8B bf16, / memory roofline",
        "decode at batch 5, 8B bf16, / memory roofline",
        "prefill of 32 tokens, 8B bf16, / bf16 matmul",
        "prefill of 64 tokens, 8B bf16, / bf16 matmul",
        "prefill of 128 tokens, 8B bf16, / bf16 matmul",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_what_can_be_run() -> None:
    done = run_benchmark()
    assert done.returncode == 1
    assert "python -m benchmarks.gpu --smoke" in done.stderr


def test_a_measure_that_fails_is_a_row_and_the_others_go_on() -> None:
    def fails(_bench: Bench) -> Iterator[Row]:
        yield Row("first half", "1", "", "", "")
        raise RuntimeError("out of memory\nand a long story")

    def works(_bench: Bench) -> Iterator[Row]:
        yield Row("second", "2", "", "", "")

    rows = list(rows_of("group", (fails, works), BENCH))
    assert [row.measure for row in rows] == ["first half", "group group", "second"]
    assert rows[1].value is None
    assert rows[1].detail == "RuntimeError: out of memory"


def test_the_report_says_where_and_what_was_not_measured() -> None:
    rows = [Row("speed", "0.9", "0.75", "0.88", "fast | good"), Row("peer", None, "", "", "gone")]
    text = report(rows, CEILINGS, smoke=True, seconds=12)
    assert "| speed | 0.9 | 0.75 | 0.88 | fast / good |" in text
    assert "| peer | not measured |  |  | gone |" in text
    assert "CPU; torch" in text


def test_all_groups_together_fit_into_eight_minutes() -> None:
    assert sum(group.seconds for group in GROUPS.values()) <= 8 * 60


@pytest.mark.parametrize(
    ("shape", "billions"), [(EIGHT_B, 8.03), (ONE_B, 1.24), (SIX_TENTHS_B, 0.60)]
)
def test_shapes_are_as_large_as_their_names_say(shape: object, billions: float) -> None:
    tables = 1 if shape.tie_word_embeddings else 2  # type: ignore[attr-defined]
    weights = shape.product_weights + tables * shape.vocab_size * shape.hidden_size  # type: ignore[attr-defined]
    assert math.isclose(weights / 1e9, billions, rel_tol=0.01)


def test_a_step_reads_every_weight_once_and_no_table() -> None:
    tied = random_model(TINY, torch.device("cpu"), torch.float32)
    apart = random_model(
        replace(TINY, tie_word_embeddings=False), torch.device("cpu"), torch.float32
    )
    assert bytes_read(tied) == bytes_read(apart)
    numbers = sum(weight.numel() for weight in tied.parameters())  # a tied head counts once
    rotary = tied.inverse_frequencies.numel()
    assert bytes_read(tied) == 4 * (numbers + rotary)


def test_random_weights_are_not_zeros() -> None:
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    assert all(float(weight.abs().min()) > 0 for weight in model.parameters())


def test_the_ideal_reads_the_weights_once_a_step_and_each_context() -> None:
    """Two answers of 2 and 3 tokens: the first tokens come with the prompts, then two steps follow."""
    requests = [Asked((1,) * 10, 2), Asked((1,) * 20, 3)]
    free_prompts = Ceilings(copied_bytes_per_second=1.0, bf16_flops=float("inf"))
    seconds = ideal_seconds(requests, TINY, 1000, free_prompts, kv_bytes=1)
    assert seconds == (1000 + 11 + 21) + (1000 + 22)
