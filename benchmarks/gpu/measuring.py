"""How long the device takes, how fast it is at best, and how a figure is told."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the report. value is None where nothing was measured; detail then says why, else how.

    least, aim   as the target says them; "" where there is none.
    """

    measure: str
    value: str | None
    least: str
    aim: str
    detail: str

    def as_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device did at best in this run."""

    copied_bytes_per_second: float  # read and written, both counted
    bf16_flops: float  # multiplications and additions per second


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things run, and how large they are."""

    device: torch.device
    smoke: bool
    ceilings: Ceilings

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.smoke else torch.bfloat16

    def sized(self, real: int, smoke: int) -> int:
        return smoke if self.smoke else real


Measure = Callable[[Bench], Iterator[Row]]


def bench_device(smoke: bool) -> torch.device:
    return torch.device("cpu" if smoke else "cuda")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Once, with the device idle before and after."""
    settle(device)
    began = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - began


def median_seconds(
    work: Callable[[], object], device: torch.device, *, rounds: int, each: int = 1
) -> float:
    """Of one call, with `each` calls behind each other in a round; two rounds before do not count."""

    def round_of_calls() -> None:
        for _ in range(each):
            work()

    for _ in range(2):
        round_of_calls()
    return statistics.median(seconds_of(round_of_calls, device) for _ in range(rounds)) / each


def measured_ceilings(device: torch.device, smoke: bool) -> Ceilings:
    """A copy within the device's memory that no cache holds, and a product of large bf16 matrices."""
    side = 128 if smoke else 8192
    some, others = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    multiplying = median_seconds(lambda: some @ others, device, rounds=5, each=4)
    return Ceilings(_copied_bytes_per_second(device, smoke), 2 * side**3 / multiplying)


def _copied_bytes_per_second(device: torch.device, smoke: bool) -> float:
    source = torch.randn(2**20 if smoke else 2**30, device=device).to(torch.bfloat16)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, rounds=5, each=4)
    return 2 * source.nbytes / seconds


def ratio(value: float) -> str:
    return f"{value:.3f}"


def percent(part: float) -> str:
    return f"{100 * part:.2f} %"
