"""What collecting costs the application: CPU per call, beside the same calls without it, in one run.

    python -m benchmarks.collectors [--calls 300] [--rounds 31] [--way httpx …]

Real parts: the clients, HTTP on loopback to a provider in a process of its own, the collector as `costwatch-collect
run` sets it up, its threads and its disk included, and a receiver in another process. For each way to call there are three
programs: one is not collected, one is without fingerprints, one is with them. They take turns, so that a machine that slows
down slows all. The kernel's part of a call over loopback scatters more than what is looked for, so many short rounds are
paired and their median is told with its 95 % interval.

The openai client is covered by reading its requests; "instrumented" is what COSTWATCH_INSTRUMENTATIONS=installed does instead.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHUNKS = 64
_ASKED = "BENCHMARK_ASKED_KB"
_PROMPT = "Say in a few words what the capital of France is. " * (
    20 * int(os.environ.get(_ASKED, "4"))
)
_ANSWER = "The capital of France is Paris, as it has been for most of the time. " * 30  # 2 KB
_MESSAGES = [{"role": "user", "content": _PROMPT}]
_CHAT = "/v1/chat/completions"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=300, help="a round")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--asked-kb", type=int, default=4, help="a prompt")
    parser.add_argument("--way", choices=WAYS, action="append", help="to call; all of them")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--call", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
    elif options.call:
        _answer_rounds(WAYS[options.call])
    else:
        _measure(options)


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU a call: of the whole process, and of the thread that called."""

    process_us: float
    caller_us: float


def _measure(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="costwatch-bench-")))
        provider = stack.enter_context(_server())
        receiver = stack.enter_context(_server())
        rows = []
        for way in options.way or (way for way in WAYS if find_spec(way.split()[0])):
            rows.append(_row(way, _rounds(way, provider, receiver, folder, options)))
    _print(rows, options)


def _rounds(
    way: str, provider: str, receiver: str, folder: Path, options: argparse.Namespace
) -> list[tuple[Cost, Cost, Cost]]:
    """Costs not collected, without and with fingerprints, round by round; the first round warms up."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ |= {
        "PROVIDER_URL": provider,
        "COSTWATCH_ENDPOINT": receiver,
        "COSTWATCH_KEY": "benchmark",
        "COSTWATCH_OUTBOX": str(folder),
        _ASKED: str(options.asked_kb),
        "COSTWATCH_INSTRUMENTATIONS": "installed" if way in INSTRUMENTED else "needed",
    }
    plain = [sys.executable, "-m", "benchmarks.collectors", "--call", way]
    collected = [sys.executable, "-m", "collectors.run", "run", "--team", "benchmark", "--", *plain]
    without = environ | {"COSTWATCH_FINGERPRINTS": "off"}
    with ExitStack() as stack:
        programs = [
            stack.enter_context(_program(command, variables))
            for command, variables in ((plain, environ), (collected, without), (collected, environ))
        ]
        found = []
        for number in range(options.rounds + 1):
            # Who goes first has a colder machine.
            first = number % len(programs)
            turns = programs[first:] + programs[:first]
            costs = {id(turn): _round(turn, options.calls) for turn in turns}
            found.append(tuple(costs[id(each)] for each in programs))
    return found[1:]


@contextmanager
def _program(command: list[str], environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate(timeout=30)


def _round(process: subprocess.Popen[str], calls: int) -> Cost:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{calls}\n")
    process.stdin.flush()
    return Cost(**json.loads(process.stdout.readline()))


def _row(way: str, rounds: list[tuple[Cost, Cost, Cost]]) -> tuple[str, ...]:
    plain = [each.process_us for each, _, _ in rounds]
    added = [whole.process_us - plain.process_us for plain, _, whole in rounds]
    on_caller = [whole.caller_us - plain.caller_us for plain, _, whole in rounds]
    hashed = [whole.process_us - without.process_us for _, without, whole in rounds]
    hashed_on_caller = [whole.caller_us - without.caller_us for _, without, whole in rounds]
    spreads = [_spread(each) for each in (added, on_caller, hashed, hashed_on_caller)]
    return way, f"{statistics.median(plain):,.0f}", *spreads


def _spread(values: list[float]) -> str:
    """The median with its 95 % interval, by the ranks that the binomial distribution gives (its normal form)."""
    ordered = sorted(values)
    below = max(0, math.floor((len(ordered) - 1.96 * math.sqrt(len(ordered))) / 2))
    return f"{statistics.median(values):,.0f} ({ordered[below]:,.0f}–{ordered[-1 - below]:,.0f})"


def _print(rows: list[tuple[str, ...]], options: argparse.Namespace) -> None:
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()},"
        f" Python {platform.python_version()}: median of {options.rounds} interleaved rounds of"
        f" {options.calls} calls (95 % interval); {options.asked_kb} KB asked, 2 KB answered, streams in {CHUNKS} chunks\n"
    )
    print("| way to call | µs of CPU a call, not collected | added by the collector | of it on the calling thread | of it by fingerprints | of these on the calling thread |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


# One program


def _answer_rounds(way: Callable[[], Callable[[], None]]) -> None:
    call = way()
    for line in sys.stdin:
        calls = int(line)
        process_began, caller_began = time.process_time_ns(), time.thread_time_ns()
        for _ in range(calls):
            call()
        caller_ns = time.thread_time_ns() - caller_began
        _flush()
        process_ns = time.process_time_ns() - process_began
        cost = {"process_us": process_ns / calls / 1000, "caller_us": caller_ns / calls / 1000}
        print(json.dumps(cost), flush=True)


def _flush() -> None:
    """Have the collector, where there is one, end its work for the round, so that it counts."""
    sdk: Any = sys.modules.get("collectors.sdk")
    if sdk is not None:
        assert sdk.configured().flush(), "the receiver did not take it"


def _ask(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": _MESSAGES, "max_tokens": 400, **more}


_STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def _httpx() -> Callable[[], None]:
    import httpx

    client = httpx.Client(base_url=os.environ["PROVIDER_URL"])

    def call() -> None:
        client.post(_CHAT, json=_ask()).json()

    return call


def _httpx_stream() -> Callable[[], None]:
    import httpx

    client = httpx.Client(base_url=os.environ["PROVIDER_URL"])

    def call() -> None:
        with client.stream("POST", _CHAT, json=_ask(**_STREAM)) as response:
            for _ in response.iter_lines():
                pass

    return call


def _requests() -> Callable[[], None]:
    import requests

    session = requests.Session()
    url = os.environ["PROVIDER_URL"] + _CHAT

    def call() -> None:
        session.post(url, json=_ask(), timeout=30).json()

    return call


def _aiohttp() -> Callable[[], None]:
    import asyncio

    import aiohttp

    loop = asyncio.new_event_loop()
    url = os.environ["PROVIDER_URL"] + _CHAT

    async def open_session() -> Any:
        return aiohttp.ClientSession()

    session = loop.run_until_complete(open_session())

    async def once() -> None:
        async with session.post(url, json=_ask()) as response:
            await response.json()

    return lambda: loop.run_until_complete(once())


def _openai() -> Callable[[], None]:
    import openai

    client: Any = openai.OpenAI(base_url=os.environ["PROVIDER_URL"] + "/v1", api_key="none")

    def call() -> None:
        client.chat.completions.create(**_ask())

    return call


def _openai_stream() -> Callable[[], None]:
    import openai

    client: Any = openai.OpenAI(base_url=os.environ["PROVIDER_URL"] + "/v1", api_key="none")

    def call() -> None:
        for _ in client.chat.completions.create(**_ask(**_STREAM)):
            pass

    return call


WAYS: dict[str, Callable[[], Callable[[], None]]] = {
    "httpx": _httpx,
    "httpx stream": _httpx_stream,
    "requests": _requests,
    "aiohttp": _aiohttp,
    "openai": _openai,
    "openai stream": _openai_stream,
    "openai instrumented": _openai,
    "openai instrumented stream": _openai_stream,
}
INSTRUMENTED = ("openai instrumented", "openai instrumented stream")


# The other processes


@contextmanager
def _server() -> Iterator[str]:
    """A process that answers calls, and takes telemetry; yields its URL."""
    command = [sys.executable, "-m", "benchmarks.collectors", "--serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=30)


def _serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()


class _Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != _CHAT:
            self._answer("application/x-protobuf", b"")
        elif b'"stream":true' in body.replace(b" ", b""):
            self._stream()
        else:
            self._answer("application/json", _WHOLE)

    def _answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in _EVENTS:
            self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # a program that ends hangs up
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


_COMMON = {"id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012", "created": 1, "model": "gpt-4o-2024-08-06"}  # fmt: skip
_USAGE = {
    "prompt_tokens": 900,
    "completion_tokens": 400,
    "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 512},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
_WHOLE = json.dumps(
    {
        **_COMMON,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": _ANSWER},
            }
        ],
        "usage": _USAGE,
    }
).encode()


def _event(choices: list[Any], usage: Any = None) -> bytes:
    said = {**_COMMON, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(said).encode() + b"\n\n"


_EVENTS = [
    *[
        _event([{"index": 0, "delta": {"content": _ANSWER[place :: CHUNKS - 2]}, "finish_reason": None}])
        for place in range(CHUNKS - 3)
    ],
    _event([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
    _event([], _USAGE),
    b"data: [DONE]\n\n",
]  # fmt: skip


if __name__ == "__main__":
    main()
