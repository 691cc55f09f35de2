"""What the runtime does with one H100 or H200, beside the device's own ceilings in the same run.

    python -m benchmarks.gpu            on a machine with a GPU, under eight minutes; prints Markdown for RECORD.md
    python -m benchmarks.gpu --smoke    the same with tiny models on a CPU, in seconds: whether it runs, not how fast

Every group of measures runs in a process of its own with a time limit: one that fails, or takes too long, is printed as such,
and the others go on.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu import decode, engine, products, step_model
from benchmarks.gpu.measuring import (
    Bench,
    Ceilings,
    Measure,
    Row,
    bench_device,
    device_name,
    measured_ceilings,
)
from benchmarks.gpu.shapes import EIGHT_B, ONE_B, SIX_TENTHS_B


@dataclass(frozen=True, slots=True)
class Group:
    """Measures that share a process, and how long it may take."""

    seconds: float
    measures: tuple[Measure, ...]


GROUPS: Mapping[str, Group] = {
    "decode-8b": Group(40, (decode.batch_1(EIGHT_B, "", "0.75", "0.88"),)),
    "decode-1b": Group(30, (decode.batch_1(ONE_B, "", "0.55", "0.75"),)),
    "decode-0.6b": Group(30, (decode.batch_1(SIX_TENTHS_B, "", "0.35", "0.55"),)),
    "decode-8b-fp8": Group(40, (decode.batch_1(EIGHT_B, "fp8", "0.60", "0.78"),)),
    "decode-8b-int4": Group(40, (decode.batch_1(EIGHT_B, "int4", "0.45", "0.65"),)),
    "batches-8b": Group(40, (decode.many_rows, decode.prefill)),
    "products": Group(15, (products.beside_the_library,)),
    "step-model": Group(30, (step_model.error,)),
    "load-0.6b": Group(70, (engine.under_load(SIX_TENTHS_B, "0.40", "0.65"),)),
    "load-8b": Group(95, (engine.under_load(EIGHT_B, "0.55", "0.80"),)),
    "attribution": Group(50, (engine.attribution_overhead,)),
}


def main() -> None:
    options = _options()
    if not (options.smoke or torch.cuda.is_available()):
        raise SystemExit(
            "no NVIDIA GPU here; to see whether it runs at all: python -m benchmarks.gpu --smoke"
        )
    if options.group:
        _be_group(options.group, options.smoke, Ceilings(**json.loads(options.ceilings)))
        return
    began = time.monotonic()
    ceilings = measured_ceilings(bench_device(options.smoke), options.smoke)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the groups' processes want the memory
    rows: list[Row] = []
    for name in options.only or GROUPS:
        sys.stderr.write(f"{time.monotonic() - began:4.0f} s  {name}\n")
        here = options.smoke and not options.processes
        rows += (_rows_here if here else _rows_of_process)(name, options.smoke, ceilings)
    print(report(rows, ceilings, options.smoke, time.monotonic() - began))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--smoke", action="store_true", help="tiny models on a CPU")
    parser.add_argument(
        "--only", nargs="*", choices=[*GROUPS], metavar="GROUP", help=", ".join(GROUPS)
    )
    parser.add_argument(
        "--processes", action="store_true", help="with --smoke: a process a group, as on a GPU"
    )
    parser.add_argument("--group", choices=[*GROUPS], help=argparse.SUPPRESS)
    parser.add_argument("--ceilings", help=argparse.SUPPRESS)
    return parser.parse_args()


def _be_group(name: str, smoke: bool, ceilings: Ceilings) -> None:
    """A JSON line a row, as soon as it is there."""
    for row in _rows_here(name, smoke, ceilings):
        print(row.as_json(), flush=True)


def _rows_here(name: str, smoke: bool, ceilings: Ceilings) -> Iterator[Row]:
    torch.set_num_threads(1)
    bench = Bench(bench_device(smoke), smoke, ceilings)
    return rows_of(name, GROUPS[name].measures, bench)


def rows_of(name: str, measures: Sequence[Measure], bench: Bench) -> Iterator[Row]:
    """All rows; a measure that fails is a row that says so."""
    for measure in measures:
        try:
            yield from measure(bench)
        except Exception as error:
            yield _failed(name, f"{type(error).__name__}: {error}")


def _rows_of_process(name: str, smoke: bool, ceilings: Ceilings) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--group", name]
    command += ["--ceilings", json.dumps(asdict(ceilings)), *(["--smoke"] if smoke else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=GROUPS[name].seconds
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        return [*_rows_in(said), _failed(name, f"not done after {late.timeout:.0f} s")]
    rows = _rows_in(done.stdout)
    if done.returncode:
        rows.append(
            _failed(name, f"the process ended with {done.returncode}: {_last_line(done.stderr)}")
        )
    return rows


def _rows_in(said: str) -> list[Row]:
    """Lines that are whole rows: a process that was ended may leave half a line."""
    return [
        Row(**json.loads(line))
        for line in said.splitlines()
        if line.startswith("{") and line.endswith("}")
    ]


def _failed(name: str, why: str) -> Row:
    return Row(f"group {name}", None, "", "", why.splitlines()[0][:300] if why else "")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def report(rows: list[Row], ceilings: Ceilings, smoke: bool, seconds: float) -> str:
    """Markdown: where, the ceilings, and a line a measure."""
    packages = ", ".join(f"{name} {_version(name)}" for name in ("torch", "triton", "transformers"))
    where = f"{device_name(bench_device(smoke))}; {packages}; {seconds:.0f} s in all."
    return "\n".join(
        [
            "`python -m benchmarks.gpu --smoke`: tiny models, figures of no meaning"
            if smoke
            else "`python -m benchmarks.gpu`",
            "",
            f"{where} Ceilings in the same run: copy {ceilings.copied_bytes_per_second / 1e9:,.0f} GB/s (read and "
            f"written), bf16 product {ceilings.bf16_flops / 1e12:,.1f} TFLOP/s. Random weights in the shapes of "
            "Llama-3-8B, Llama-3.2-1B and Qwen3-0.6B.",
            "",
            "| measure | found | at least | aim | how |",
            "|---|---|---|---|---|",
            *(_line(row) for row in rows),
        ]
    )


def _line(row: Row) -> str:
    cells = (row.measure, row.value or "not measured", row.least, row.aim, row.detail)
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    main()
