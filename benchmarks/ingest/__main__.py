"""How many calls per second go from the first byte to the rollups, and what that costs.

    python -m benchmarks.ingest [--bodies 160] [--rounds 5] [--senders 4] [--paced-seconds 20]
                                [--prefill CALLS] [--load-seconds SECONDS] [--phoenix ENVIRONMENT]

Real parts: the OTLP door in two processes of its own, a Celery worker on the embedded Postgres' own broker, bodies of 512
spans as an instrumented client sends them. Each round measures the service, then COPY of the rows that the round wrote
into a bare table, then the bound (bound.py) and, where there is one, Phoenix: a machine that slows down slows all of them.
"""

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.ingest import load, phoenix, stored
from benchmarks.ingest.bodies import SPANS
from benchmarks.ingest.bound import bound
from benchmarks.ingest.load import Burst, Pace
from benchmarks.ingest.phoenix import Phoenix
from benchmarks.ingest.service import Service, service

_PHOENIX_BODIES = 2  # at about 100 spans a second


@dataclass(frozen=True, slots=True)
class Round:
    burst: Burst
    copied: float  # rows per second
    bound: float
    phoenix: float | None


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="costwatch-bench-")))
        data_dir.chmod(0o755)
        under_load = stack.enter_context(service(data_dir))
        peer = (
            stack.enter_context(phoenix.phoenix(options.phoenix, data_dir))
            if options.phoenix
            else None
        )
        load.burst(under_load, options.bodies, options.senders)  # to warm up
        if options.prefill:
            with under_load.connect() as connection:
                stored.prefill(connection, options.prefill)
        rounds = [_round(under_load, peer, options) for _ in range(options.rounds)]
        with under_load.connect() as connection:
            stored.forget_own(connection)
        half = statistics.median(one.burst.visible for one in rounds) / 2
        paced = load.pace(under_load, half, options.paced_seconds, options.senders)
        _print_head(options)
        _print_rounds(rounds, peer)
        _print_pace(paced)
        _print_stored(under_load)
        if options.load_seconds:
            _print_memory(under_load, half, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=160, help=f"of {SPANS} spans, a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--paced-seconds", type=float, default=20, help="at half load")
    parser.add_argument("--prefill", type=int, default=0, help="calls in the ledger beforehand")
    parser.add_argument(
        "--load-seconds", type=float, default=0, help="more of half load, to watch memory"
    )
    parser.add_argument("--phoenix", type=Path, help="environment that has arize-phoenix")
    return parser.parse_args()


def _round(under_load: Service, peer: Phoenix | None, options: argparse.Namespace) -> Round:
    burst = load.burst(under_load, options.bodies, options.senders)
    with under_load.connect() as connection:
        copied = stored.copy_rows_per_second(connection, SPANS * options.bodies)
    return Round(
        burst,
        copied,
        bound(under_load.database_url, options.bodies),
        phoenix.burst(peer, _PHOENIX_BODIES) if peer else None,
    )


# What is printed


def _print_head(options: argparse.Namespace) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
          f"Python {platform.python_version()}: {options.rounds} rounds of {options.bodies} bodies "
          f"of {SPANS} spans, {options.senders} senders, {options.prefill:,} calls in the ledger before")  # fmt: skip
    print()
    print("| measure | median (least–most) |")
    print("|---|---|")


def _print_rounds(rounds: Sequence[Round], peer: Phoenix | None) -> None:
    _row("calls/s, first byte to visible in the rollups", [r.burst.visible for r in rounds], _whole)
    _row("calls/s, first byte to acknowledged", [r.burst.acknowledged for r in rounds], _whole)
    _row("rows/s, raw COPY of the same ledger rows", [r.copied for r in rounds], _whole)
    _row("visible / COPY", [r.burst.visible / r.copied for r in rounds], _ratio)
    _row(
        "rows/s of the bound: two processes that decode and COPY", [r.bound for r in rounds], _whole
    )
    _row("visible / bound", [r.burst.visible / r.bound for r in rounds], _ratio)
    if peer is None:
        print("| Phoenix | not measured; give --phoenix an environment that has arize-phoenix |")
        return
    stored_by_peer = [r.phoenix for r in rounds if r.phoenix]
    _row(f"spans/s of arize-phoenix {peer.version}, until stored", stored_by_peer, _whole)
    ratios = [r.burst.visible / r.phoenix for r in rounds if r.phoenix]
    _row("visible / Phoenix", ratios, _whole)


def _print_pace(paced: Pace) -> None:
    print(
        f"| p99 of a POST of {SPANS} spans, at {paced.calls_per_second:,.0f} calls/s | {paced.p99_post_seconds * 1000:,.0f} ms |"
    )
    print(f"| p95 from acknowledged to visible, at the same | {paced.p95_visible_seconds:.2f} s |")


def _print_stored(under_load: Service) -> None:
    with under_load.connect() as connection:
        ledger, spans = stored.bytes_per_call(connection)
    print(f"| bytes stored per call, ledger and its index | {ledger:,.0f} |")
    print(f"| bytes stored per call, what was seen of it and its indexes | {spans:,.0f} |")


def _print_memory(
    under_load: Service, calls_per_second: float, options: argparse.Namespace
) -> None:
    """Ten stretches of load, and what the receivers hold after each."""
    held = [under_load.receiver_bytes()]
    for _ in range(10):
        load.pace(under_load, calls_per_second, options.load_seconds / 10, options.senders)
        held.append(under_load.receiver_bytes())
    said = ", ".join(f"{size_bytes / 2**20:,.0f}" for size_bytes in held)
    calls = calls_per_second * options.load_seconds
    print(f"| MiB of both receivers, before and after each tenth of {calls:,.0f} calls | {said} |")


def _row(measure: str, values: Sequence[float], shown: Callable[[float], str]) -> None:
    print(
        f"| {measure} | {shown(statistics.median(values))} ({shown(min(values))}–{shown(max(values))}) |"
    )


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


if __name__ == "__main__":
    main()
