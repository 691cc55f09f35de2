"""What a worker says: a line of JSON for each that it is told, until nobody tells it any more."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Source:
    """What a worker is started with."""

    model: str
    cache_dir: Path
    dtype: torch.dtype
    threads: int


def source_of(arguments: list[str]) -> Source:
    model, cache_dir, dtype, threads = arguments
    return Source(model, Path(cache_dir), getattr(torch, dtype), int(threads))


@dataclass
class Clock:
    """When tokens came, in seconds since the begin."""

    began: float = field(default_factory=time.perf_counter)
    first_seconds: float = 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def report(self, tokens: int) -> dict[str, float]:
        return {
            "first_seconds": self.first_seconds,
            "all_seconds": self.seconds(),
            "tokens": tokens,
        }


def answer_lines(answer: Callable[[dict[str, Any]], dict[str, float]]) -> None:
    """An error is an answer too: the row that asked says it, and the next one is asked."""
    for line in sys.stdin:
        try:
            said: dict[str, Any] = answer(json.loads(line))
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)
