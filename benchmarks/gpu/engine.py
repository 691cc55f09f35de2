"""The whole engine under load: beside the ideal, beside transformers, how idle, and what attribution takes."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial

from benchmarks.gpu import peers
from benchmarks.gpu.measuring import Bench, Measure, Row, percent, ratio
from benchmarks.gpu.shapes import SIX_TENTHS_B, TINY, Shape
from benchmarks.gpu.traffic import (
    Asked,
    Served,
    ideal_for,
    random_requests,
    running_engine,
    serve,
    tokens_of,
)
from serving.engine.config import EngineConfig

_T_95 = {
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
}  # Student's, two sides, by degrees of freedom


def under_load(shape: Shape, least: str, aim: str) -> Measure:
    """256 requests / the ideal for them, idle time while they run, and the same requests in transformers."""

    def measure(bench: Bench) -> Iterator[Row]:
        used = TINY if bench.smoke else shape
        requests = random_requests(bench, used, bench.sized(256, 8))
        few, few_tokens = requests[: bench.sized(64, 4)], bench.sized(128, 4)
        with running_engine(bench, used) as (engine, model):
            serve(engine, few)  # what is compiled at first use, is
            served = serve(engine, requests)
            ours_continuous = serve(engine, _with_answers(few, few_tokens))
            ideal = ideal_for(bench, used, model, requests)
        del engine, model
        peers.forget()
        yield _ideal_row(shape, served, ideal, least, aim)
        yield _idle_row(shape, served)
        yield from _peer_rows(bench, shape, served, ours_continuous, requests, few_tokens)

    return measure


def _with_answers(requests: Sequence[Asked], answer_tokens: int) -> list[Asked]:
    return [Asked(asked.prompt, answer_tokens) for asked in requests]


def _ideal_row(shape: Shape, served: Served, ideal: float, least: str, aim: str) -> Row:
    rate = served.output_tokens / served.seconds
    return Row(
        f"256 requests of 100–1,024 tokens, {shape.title}, / the ideal",
        ratio(ideal / served.seconds),
        least,
        aim,
        f"{served.seconds:.2f} s, ideal {ideal:.2f} s; {rate:,.0f} output tokens/s",
    )


def _idle_row(shape: Shape, served: Served) -> Row:
    before, after = served.busiest
    wall_ns = after.wall_ns - before.wall_ns
    idle = (after.idle_ns - before.idle_ns) / wall_ns if wall_ns else math.nan
    return Row(
        f"device idle when saturated, {shape.title}",
        percent(idle),
        "3 %",
        "0.7 %",
        f"over {wall_ns / 1e9:.1f} s; busy is what steps took by the device's own clock",
    )


def _peer_rows(
    bench: Bench,
    shape: Shape,
    served: Served,
    continuous: Served,
    requests: Sequence[Asked],
    answer_tokens: int,
) -> Iterator[Row]:
    static = f"the same, {shape.title}, / transformers generate (best static batch)"
    few = requests[: bench.sized(64, 4)]
    paged = f"{len(few)} of them, {shape.title}, / transformers continuous batching"
    if not peers.INSTALLED:
        missing = "transformers is not installed; install it with: pip install transformers"
        yield Row(static, None, "5", "15", missing)
        yield Row(paged, None, "2", "4", missing)
        return
    used = TINY if bench.smoke else shape
    model = peers.model_of(bench, used)
    static_row = partial(_static_row, bench, used, served, requests, model, static)
    paged_row = partial(_paged_row, bench, continuous, few, answer_tokens, model, paged)
    yield _attempted(static, "5", "15", static_row)
    yield _attempted(paged, "2", "4", paged_row)


def _attempted(title: str, least: str, aim: str, measure: Callable[[], Row]) -> Row:
    """A peer that fails is the peer's row, not the end of ours."""
    try:
        return measure()
    except Exception as error:
        return Row(title, None, least, aim, f"transformers failed: {error!r:.300}")


def _static_row(
    bench: Bench, shape: Shape, served: Served, requests: Sequence[Asked], model: object, title: str
) -> Row:
    theirs = peers.best_static_batches(bench, shape, requests, model)
    return Row(
        title,
        f"{theirs.seconds / served.seconds:.1f}",
        "5",
        "15",
        f"batch {theirs.batch}, {theirs.step_seconds * 1e3:.1f} ms a step: {theirs.seconds:.1f} s by "
        "extrapolation from 16 steps",
    )


def _paged_row(
    bench: Bench,
    ours: Served,
    requests: Sequence[Asked],
    answer_tokens: int,
    model: object,
    title: str,
) -> Row:
    seconds = peers.continuous_batching_seconds(bench, model, requests, answer_tokens)
    return Row(
        title,
        f"{seconds / ours.seconds:.1f}",
        "2",
        "4",
        f"answers of {answer_tokens} tokens: {seconds:.2f} s, ours {ours.seconds:.2f} s; its fast path needs "
        "flash-attn, which is not what it ran with",
    )


def attribution_overhead(bench: Bench) -> Iterator[Row]:
    """Throughput with attribution on and off, in turns, in one run."""
    title = "attribution on against off, throughput lost"
    if "attribution" not in {field.name for field in fields(EngineConfig)}:
        why = "EngineConfig has no 'attribution' that could be turned off"
        yield Row(title, None, "< 1 %", "< 0.3 %", why)
        return
    shape = TINY if bench.smoke else SIX_TENTHS_B
    requests = random_requests(bench, shape, bench.sized(128, 6))
    requests = _with_answers(requests, bench.sized(256, 6))
    losses = _losses(bench, shape, requests)
    mean = statistics.mean(losses)
    margin = _T_95[len(losses) - 1] * statistics.stdev(losses) / math.sqrt(len(losses))
    yield Row(
        title,
        f"{percent(mean)} ({percent(mean - margin)} to {percent(mean + margin)})",
        "< 1 %",
        "< 0.3 %",
        f"mean of {len(losses)} pairs in turns and its 95 % interval, {tokens_of(requests):,} tokens each",
    )


def _losses(bench: Bench, shape: Shape, requests: Sequence[Asked]) -> list[float]:
    """Of each pair, the part of the throughput that is lost with attribution. Which one goes first changes in turn."""
    share = 0.4 if bench.device.type == "cuda" else 1.0
    with (
        running_engine(bench, shape, attribution=True, memory_share=share) as (on, _),
        running_engine(bench, shape, attribution=False, memory_share=share) as (off, _),
    ):
        for engine in (on, off):
            serve(engine, requests)
        losses = []
        for number in range(bench.sized(8, 4)):
            order = (on, off) if number % 2 else (off, on)
            seconds = {id(engine): serve(engine, requests).seconds for engine in order}
            losses.append(1 - seconds[id(off)] / seconds[id(on)])
    return losses
