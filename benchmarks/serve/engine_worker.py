"""A process that answers by our engines in it.

    python -m benchmarks.serve.engine_worker MODEL CACHE_DIR DTYPE THREADS

Each line on stdin is {"prompts", "answer_tokens", "scheme", "prefix_cache"}, each line on stdout what it took:
{"first_seconds", "all_seconds", "tokens"}, or {"error"}. An engine is made when it is asked for, and kept until another
one is: two would have more threads than a machine of as many cores as each has.
"""

import queue
import sys
import time
from typing import Any

from benchmarks.serve.lines import Clock, Source, answer_lines, source_of
from benchmarks.serve.peers import MAX_STREAMS
from serving.engine.aside import aside
from serving.engine.config import EngineConfig
from serving.engine.engine import Engine
from serving.engine.prepare import prepare
from serving.engine.request import Progress, Request, SamplingParams
from serving.weights import load


class Engines:
    """Our engine, with the scheme and prefix cache that are asked for; always of the same sizes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._engine: Engine | None = None
        self._kind: tuple[str, bool] | None = None

    def answer(self, ask: dict[str, Any]) -> dict[str, float]:
        engine = self._made(ask["scheme"], ask["prefix_cache"])
        progress: queue.Queue[Progress] = queue.Queue()
        sampling = SamplingParams(ask["answer_tokens"], temperature=0.0, ignore_eos=True)
        clock = Clock()
        for number, prompt in enumerate(ask["prompts"]):
            request = Request(str(number), prompt, sampling, time.monotonic_ns())
            engine.submit(request, progress.put)
        return _follow(progress, len(ask["prompts"]), clock)

    def _made(self, scheme: str, prefix_cache: bool) -> Engine:
        if self._engine is None or self._kind != (scheme, prefix_cache):
            if self._engine is not None:
                self._engine.stop()
            self._engine = aside(lambda: self._new(scheme, prefix_cache))
            self._kind = scheme, prefix_cache
        return self._engine

    def _new(self, scheme: str, prefix_cache: bool) -> Engine:
        source = self._source
        loaded = load(source.model, dtype=source.dtype, cache_dir=source.cache_dir)
        prepare(loaded, scheme=scheme)
        config = EngineConfig(
            threads=source.threads,
            max_batch_requests=MAX_STREAMS,
            prefix_cache=prefix_cache,
        )
        engine = Engine(loaded, config)
        engine.start()
        return engine


def _follow(progress: "queue.Queue[Progress]", requests: int, clock: Clock) -> dict[str, float]:
    """first_seconds is the last request's: all have begun by then."""
    begun: set[str] = set()
    tokens, left = 0, requests
    while left:
        news = progress.get()
        if news.token_ids and news.request_id not in begun:
            begun.add(news.request_id)
            clock.first_seconds = clock.seconds()
        tokens += len(news.token_ids)
        left -= news.finished is not None
        if news.finished is not None and news.finished.error:
            raise RuntimeError(news.finished.error)
    return clock.report(tokens)


if __name__ == "__main__":
    answer_lines(Engines(source_of(sys.argv[1:])).answer)
