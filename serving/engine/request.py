"""A request on its way through the engine, and what the engine says about it.

    Request     what was asked: token ids and how to sample
    Progress    what one step gave it: new tokens, new text
    Finished    how it ended and what it cost; the last Progress carries it

No torch here: the scheduler, the server and the tests read these without a device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    STOP = "stop"  # end-of-sequence token or a stop string
    LENGTH = "length"  # max_tokens, or the model's context is full
    CANCELLED = "cancelled"  # the client went away
    ERROR = "error"  # the engine failed; Finished.error says how


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token. temperature 0 is greedy, and then nothing else matters."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. arrived_ns is time.monotonic_ns() at the door."""

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class Finished:
    """How a request ended and what it cost. Times are time.monotonic_ns(), None where it never got there.

    device_ns sums over requests to the engine's attributed time exactly. device_ns_marginal is its own work
    without a share of the fixed part of a step; device_ns_alone is what the step model says it would have taken
    with nobody else in the batch.
    """

    reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    arrived_ns: int
    scheduled_ns: int | None  # first step that computed for it
    first_token_ns: int | None
    finished_ns: int
    device_ns: int
    device_ns_marginal: int
    device_ns_alone: int
    prefix_repeated_tokens: int  # leading prompt tokens that a prefix cache would have held
    request_repeated: bool  # greedy, and answered before: a response cache would have answered it
    error: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step gave a request. text is whole characters: bytes of a split one wait for the next step."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    finished: Finished | None = None


@dataclass(frozen=True, slots=True)
class DeviceClock:
    """Where the device's time went since the engine began, in nanoseconds. The three sum to wall_ns exactly."""

    started_unix_ns: int
    wall_ns: int
    attributed_ns: int  # shared out to requests, finished or not
    unattributed_ns: int  # busy for nobody: warm-up
    idle_ns: int


class RequestRefused(ValueError):
    """The request can't be served as it stands; the message says why and what would do."""


class EngineOverloaded(RuntimeError):
    """The waiting queue is full; try again later."""


__all__ = [
    "DeviceClock",
    "EngineOverloaded",
    "FinishReason",
    "Finished",
    "Progress",
    "Request",
    "RequestRefused",
    "SamplingParams",
]
