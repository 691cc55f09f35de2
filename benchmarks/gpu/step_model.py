"""How far the work model's steps are from the ones that were measured."""

import random
import statistics
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.decode import decode_batch, decode_graphs, prefill_step
from benchmarks.gpu.measuring import Bench, Row, percent, seconds_of
from benchmarks.gpu.shapes import BLOCK_TOKENS, SIX_TENTHS_B, TINY, random_caches, random_model
from serving.accounting.work_model import Work, WorkModel


@torch.inference_mode()
def error(bench: Bench) -> Iterator[Row]:
    """Steps of random sizes: the model is fitted to the first half and asked about the second."""
    steps = list(_measured_steps(bench))
    half = len(steps) // 2
    work_model = WorkModel()
    for seconds, works in steps[:half]:
        work_model.observe(round(seconds * 1e9), works)
    work_model.fit()
    if not work_model.fitted:
        raise RuntimeError(f"{half} steps were not enough for a fit")
    coefficients = work_model.coefficients
    errors = [
        abs(
            coefficients.fixed_ns + sum(coefficients.own_ns(work) for work in works) - seconds * 1e9
        )
        / (seconds * 1e9)
        for seconds, works in steps[half:]
    ]
    p95 = float(np.quantile(errors, 0.95))
    yield Row(
        "step model's error, median; p95",
        f"{percent(statistics.median(errors))}; {percent(p95)}",
        "5 %; 15 %",
        "1.5 %; 5 %",
        f"{half} steps fitted, {len(errors)} asked; 0.6B, decode of 1–256 rows and prompts up to 2K",
    )


def _measured_steps(bench: Bench) -> Iterator[tuple[float, list[Work]]]:
    shape = TINY if bench.smoke else SIX_TENTHS_B
    model = random_model(shape, bench.device, bench.dtype)
    rows, longest_prompt = bench.sized(256, 8), bench.sized(2048, 64)
    width = bench.sized(64, 4)  # blocks of a decode row
    caches = random_caches(shape, rows * width, model)
    graphs = decode_graphs(model, caches, rows, width)
    graphs.capture()
    dice = random.Random(3)
    for number in range(bench.sized(400, 64)):
        if number % 4:
            count, context = dice.randint(1, rows), dice.randint(2, width * BLOCK_TOKENS)
            batch = decode_batch(count, width, context)
            seconds = seconds_of(partial(graphs.run, batch), bench.device)
            yield seconds, [Work(0, 1, context)] * count
        else:
            tokens = BLOCK_TOKENS * dice.randint(1, longest_prompt // BLOCK_TOKENS)
            seconds = seconds_of(prefill_step(model, caches, tokens), bench.device)
            yield seconds, [Work(tokens, 0, tokens)]
