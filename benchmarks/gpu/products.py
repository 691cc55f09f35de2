"""Products of few rows: our kernels beside the library's."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.measuring import Bench, Row, median_seconds
from benchmarks.gpu.shapes import EIGHT_B
from serving.kernels.triton_jit import usable_on
from serving.kernels.triton_linear import plain_linear


@torch.inference_mode()
def beside_the_library(bench: Bench) -> Iterator[Row]:
    """One layer's products of the 8B shape, one behind the other, so that no cache holds a weight: which rows are whose is
    set in serving/kernels/triton_decoder.py."""
    if not usable_on(torch.empty(0, device=bench.device)):
        yield Row(
            "products of 1–64 rows, library / ours", None, "", "", "Triton has no device here"
        )
        return
    hidden, inner = EIGHT_B.hidden_size, EIGHT_B.intermediate_size
    sizes = [(6144, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)]
    weights = [torch.randn(*size, device=bench.device).to(bench.dtype) for size in sizes]
    for rows in (1, 16, 32, 64):
        inputs = [
            torch.randn(rows, w.shape[1], device=bench.device).to(bench.dtype) for w in weights
        ]
        pairs = list(zip(inputs, weights, strict=True))
        ours = median_seconds(
            lambda pairs=pairs: [plain_linear(*pair) for pair in pairs],
            bench.device,
            rounds=7,
            each=8,
        )
        library = median_seconds(
            lambda pairs=pairs: [torch.nn.functional.linear(*pair) for pair in pairs],
            bench.device,
            rounds=7,
            each=8,
        )
        read = sum(weight.nbytes for weight in weights) / ours
        yield Row(
            f"products of {rows} rows, 8B bf16, library's time / ours",
            f"{library / ours:.2f}",
            "",
            "",
            f"ours {ours * 1e6:.0f} µs a layer, {read / bench.ceilings.copied_bytes_per_second:.2f} of copy bandwidth",
        )
