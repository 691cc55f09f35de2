"""Decode steps beside what the memory can do, prompts beside what the multipliers can do."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from benchmarks.gpu.measuring import Bench, Measure, Row, median_seconds, ratio
from benchmarks.gpu.shapes import (
    BLOCK_TOKENS,
    EIGHT_B,
    TINY,
    Shape,
    bytes_read,
    random_caches,
    random_model,
)
from serving.engine.graphs import FROM_HOST, DecodeGraphs, HostBatch
from serving.layers.attention import LayerCache, PagedBatch, Span
from serving.models.decoder import Decoder
from serving.quantize.model import quantize

_CONTEXT = 512
_STEPS = 32  # in a round


def batch_1(shape: Shape, scheme: str, least: str, aim: str) -> Measure:
    """Bytes moved by steps of one row / the copy bandwidth."""

    def measure(bench: Bench) -> Iterator[Row]:
        model = _model(bench, shape, scheme)
        title = f"batch-1 decode, {shape.title} {scheme or 'bf16'}, bytes/s / copy bandwidth"
        yield _decode_row(bench, _shape(bench, shape), model, 1, title, least, aim)

    return measure


def many_rows(bench: Bench) -> Iterator[Row]:
    """Steps of 128 and 256 rows / the time in which their bytes can be read."""
    model = _model(bench, EIGHT_B, "")
    for rows in (bench.sized(128, 3), bench.sized(256, 5)):
        title = f"decode at batch {rows}, 8B bf16, / memory roofline"
        yield _decode_row(bench, _shape(bench, EIGHT_B), model, rows, title, "0.72", "0.88")


@torch.inference_mode()
def prefill(bench: Bench) -> Iterator[Row]:
    """Prompts of 2K–8K tokens / the measured product."""
    shape, model = _shape(bench, EIGHT_B), _model(bench, EIGHT_B, "")
    for tokens in [bench.sized(2048, 32), bench.sized(4096, 64), bench.sized(8192, 128)]:
        caches = random_caches(shape, tokens // BLOCK_TOKENS, model)
        work = prefill_step(model, caches, tokens)
        seconds = median_seconds(work, bench.device, rounds=bench.sized(5, 1))
        done = shape.prefill_flops(tokens) / seconds
        yield Row(
            f"prefill of {tokens} tokens, 8B bf16, / bf16 matmul",
            ratio(done / bench.ceilings.bf16_flops),
            "0.65",
            "0.82",
            f"{seconds * 1e3:.1f} ms, {done / 1e12:.1f} TFLOP/s",
        )


def _shape(bench: Bench, shape: Shape) -> Shape:
    return TINY if bench.smoke else shape


def _model(bench: Bench, shape: Shape, scheme: str) -> Decoder:
    model = random_model(_shape(bench, shape), bench.device, bench.dtype)
    if scheme:
        quantize(model, scheme)
    return model


def _decode_row(
    bench: Bench, shape: Shape, model: Decoder, rows: int, title: str, least: str, aim: str
) -> Row:
    context = bench.sized(_CONTEXT, 40)
    seconds, captured = _step_seconds(bench, shape, model, rows, context)
    moved = bytes_read(model) + rows * context * shape.kv_bytes_of_a_token(bench.dtype)
    rate = moved / seconds
    return Row(
        title,
        ratio(rate / bench.ceilings.copied_bytes_per_second),
        least,
        aim,
        f"{seconds * 1e3:.3f} ms a step, {moved / 1e9:.2f} GB of it, {rows / seconds:,.0f} tokens/s, "
        f"contexts of {context}; {captured}",
    )


@torch.inference_mode()
def _step_seconds(
    bench: Bench, shape: Shape, model: Decoder, rows: int, context: int
) -> tuple[float, str]:
    """Steps as the engine makes them, each from the last one's tokens: packing, copying and launching are in it."""
    steps = bench.sized(_STEPS, 2)
    width = -(-(context + steps) // BLOCK_TOKENS)
    graphs = decode_graphs(model, random_caches(shape, rows * width, model), rows, width, (rows,))
    captured = graphs.capture()
    batches = [decode_batch(rows, width, context + step) for step in range(steps)]

    def answer() -> None:
        for batch in batches:
            graphs.run(batch)

    graphs.remember(torch.arange(rows, device=bench.device) % shape.vocab_size)
    seconds = median_seconds(answer, bench.device, rounds=bench.sized(7, 2))
    return seconds / steps, str(captured)


def decode_graphs(
    model: Decoder,
    caches: list[LayerCache],
    rows: int,
    width: int,
    buckets: Sequence[int] | None = None,
) -> DecodeGraphs:
    """For up to `rows` rows of `width` blocks each, in caches of rows · width blocks and one of scratch."""
    return DecodeGraphs(
        model,
        caches,
        max_requests=rows,
        max_blocks=width,
        block_tokens=BLOCK_TOKENS,
        scratch_slot=rows * width * BLOCK_TOKENS,
        buckets=buckets,
    )


def decode_batch(rows: int, width: int, context: int) -> HostBatch:
    """Every row computes the last step's token of its own, as key number `context` of its own blocks."""
    tables = np.arange(rows * width, dtype=np.int32).reshape(rows, width)
    blocks = tables[:, (context - 1) // BLOCK_TOKENS]
    return HostBatch(
        token_ids=np.full(rows, FROM_HOST, dtype=np.int32),
        sources=np.arange(rows, dtype=np.int32),
        positions=np.full(rows, context - 1, dtype=np.int32),
        slots=blocks * BLOCK_TOKENS + (context - 1) % BLOCK_TOKENS,
        contexts=np.full(rows, context, dtype=np.int32),
        tables=tables,
    )


def prefill_step(model: Decoder, caches: list[LayerCache], tokens: int) -> Callable[[], object]:
    """Computes a whole prompt of `tokens` tokens, a multiple of BLOCK_TOKENS, and its last row's logits."""
    device = model.device
    ids = torch.randint(model.config.vocab_size, (tokens,), device=device)
    places = torch.arange(tokens, device=device)
    blocks = torch.arange(tokens // BLOCK_TOKENS, device=device)
    none = torch.zeros(0, dtype=torch.int32, device=device)
    batch = PagedBatch(
        slots=places,
        tables=none.view(0, 1),
        contexts=none,
        spans=[Span(first_row=0, rows=tokens, context=tokens, blocks=blocks)],
    )
    return lambda: model.logits(model(ids, places, caches, batch)[-1:])
