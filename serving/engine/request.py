"""A request on its way through the engine, and what the engine says about it.

    Request     what was asked: token ids, how to sample, for whom
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


class Objective(StrEnum):
    """What a request waits for: somebody who reads along, or a file that is to be full by the morning."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class ConstraintKind(StrEnum):
    """What an answer must be, and what Constraint.text holds then."""

    JSON = "json"  # any JSON object; text is empty
    JSON_SCHEMA = "json_schema"  # the schema, as JSON
    REGEX = "regex"
    GRAMMAR = "grammar"  # EBNF
    STRUCTURAL_TAG = "structural_tag"  # JSON: free text with constrained parts, such as tool calls


@dataclass(frozen=True, slots=True)
class Constraint:
    """A language that the answer must belong to."""

    kind: ConstraintKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token. temperature 0 is greedy: top_p, top_k, min_p and seed don't matter then.

    presence_penalty and frequency_penalty count tokens of the answer, repetition_penalty those of the prompt too.
    logprobs   how many of the most probable tokens to report beside the chosen one; None reports nothing.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # times the probability of the most probable token
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def needs_history(self) -> bool:
        """Whether the next token depends on which ones came before it, beside what the model makes of them."""
        penalties = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1.0)
        return self.constraint is not None or any(penalties)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked. arrived_ns is time.monotonic_ns() at the door.

    team       whose turn it is is decided between teams first; "" is a team like any other
    priority   a lower one goes first, whatever the team
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    arrived_ns: int
    team: str = ""
    objective: Objective = Objective.INTERACTIVE
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token's log probability, and the most probable ones in its place, by falling probability.

    They are the model's own: after penalties, bias and constraint, before temperature and cuts.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Waste:
    """What was computed for a request and gave it nothing. It is part of what the request is charged.

    recomputed_tokens       computed again, because a preemption took their keys and values away
    rejected_draft_tokens   proposed by speculative decoding and no part of the answer: not what the model would have said,
                            or behind its end
    overrun_tokens          computed after the answer had ended, since the end was known one step late
    device_ns               the share of device_ns that these cost
    """

    recomputed_tokens: int = 0
    rejected_draft_tokens: int = 0
    overrun_tokens: int = 0
    device_ns: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a request ended and what it cost. Times are time.monotonic_ns(), None where it never got there.

    device_ns sums over requests to the engine's attributed time exactly, over all devices that computed. device_ns_marginal is its own work
    without a share of the fixed part of a step; device_ns_alone is what the step model says it would have taken
    with nobody else in the batch. All of the device's time of a request that was cancelled or failed is wasted too,
    which the reason says.
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
    prefix_repeated_tokens: (
        int  # leading prompt tokens that a prefix cache without bounds would have held
    )
    request_repeated: bool  # greedy, and answered before: a response cache would have answered it
    cached_tokens: int = (
        0  # leading prompt tokens that were not computed, since the prefix cache held them
    )
    preemptions: int = 0
    draft_tokens: int = 0  # proposed by speculative decoding
    accepted_draft_tokens: int = 0
    waste: Waste = Waste()
    allocation_method: str = (
        ""  # how device_ns was shared out, and by which version of the work model
    )
    energy_uj: int | None = None  # None where the device has no counter
    on_shared_device: bool = (
        False  # other programs used the GPU, and device_ns is our part by the driver's count
    )
    error: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step gave a request. text is whole characters: bytes of a split one wait for the next step.

    logprobs   one for each of token_ids where the request asked for them, else none.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finished: Finished | None = None


@dataclass(frozen=True, slots=True)
class DeviceClock:
    """Where a device's time went since the engine began, in nanoseconds. The three sum to wall_ns exactly.

    Over all devices that compute for the engine, attributed_ns sums to what its requests were charged.
    """

    started_unix_ns: int
    wall_ns: int
    attributed_ns: int  # shared out to requests, finished or not
    unattributed_ns: int  # busy for nobody: warm-up
    idle_ns: int


class RequestRefused(ValueError):
    """The request can't be served as it stands; the message says why and what would do."""


class EngineOverloaded(RuntimeError):
    """The waiting queue is full; try again later."""


class CompilerBusy(EngineOverloaded):
    """Too many new constraints wait to be compiled; try again later."""


class EngineFailed(RuntimeError):
    """The engine can compute nothing more; the message says why, and what would do."""


__all__ = [
    "CompilerBusy",
    "Constraint",
    "ConstraintKind",
    "DeviceClock",
    "EngineFailed",
    "EngineOverloaded",
    "FinishReason",
    "Finished",
    "Objective",
    "Progress",
    "Request",
    "RequestRefused",
    "SamplingParams",
    "TokenLogprob",
    "Waste",
]
