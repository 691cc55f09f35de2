"""What the server needs of the engine and the tokenizer, and nothing else of them.

Engine       takes requests, says how they get on, knows where the device's time went and how full it is
Tokenizer    texts and conversations → token ids, and back
ToolUse      how a model calls tools: what keeps it to them, and how its calls are told from its text
Embedder     texts → vectors
Served       one model, ready to answer
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from serving.accounting.work_model import WorkModelStats
from serving.engine.errands import Done
from serving.engine.request import Constraint, DeviceClock, Progress, Request
from serving.server.tools import Tools
from serving.tools.reader import CallPart

Result = TypeVar("Result")


class Stats(Protocol):
    """How full the engine is at this instant, and what it has counted since its start."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_blocks(self) -> int: ...
    @property
    def kv_blocks_used(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_prompt_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def prefix_queried_tokens(self) -> int: ...
    @property
    def prefix_hit_tokens(self) -> int: ...
    @property
    def draft_tokens(self) -> int: ...
    @property
    def accepted_draft_tokens(self) -> int: ...
    @property
    def work_model(self) -> WorkModelStats: ...
    @property
    def targets_kept(self) -> Mapping[tuple[str, str, bool], int]:
        """Interactive answers by (class, target, whether it was met); only of targets that there are."""

    @property
    def failure(self) -> str:
        """Why it computes no more; empty while it does."""


class Engine(Protocol):
    def submit(self, request: Request, on_progress: Callable[[Progress], None]) -> None:
        """Queue a request. on_progress is called from the engine's thread; the last call carries finished.

        Takes long where the request has a constraint that is new. Raises RequestRefused, EngineOverloaded (CompilerBusy
        where too many such constraints came at once) and EngineFailed, and then on_progress is never called.
        """

    def cancel(self, request_id: str) -> None:
        """Stop working on a request; it finishes as cancelled. An unknown id is one that has finished."""

    def between_steps(self, work: Callable[[], Result]) -> "Future[Done[Result]]":
        """Do the work with the device to itself, and say what came of it and what it is charged.

        Raises EngineOverloaded when the engine stops, and so does the future.
        """

    def clocks(self) -> Sequence[DeviceClock]:
        """Of each device."""

    def stats(self) -> Stats: ...

    def stop(self) -> None: ...


class Tokenizer(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with those around them that the model wants around a bare text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens; U+FFFD for bytes that are no whole character."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of the prompt that asks for the next answer.

        Raises ValueError where the model has no chat template, or its template refuses the messages.
        """


class CallReader(Protocol):
    """Tells an answer's calls of tools from its text, as it comes."""

    def push(self, text: str) -> tuple[str, Sequence[CallPart]]:
        """What is text and what is new of calls, as far as that is known by now."""

    def finish(self) -> tuple[str, Sequence[CallPart]]:
        """What was held back until now, where nothing more will come."""


class ToolUse(Protocol):
    """How a model is told of tools, and how it calls them."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Tools) -> list[int]:
        """Token ids of the prompt that offers the tools, perhaps none, and tells of earlier calls.

        Raises ValueError where the model's template refuses them.
        """

    def constraint(self, tools: Tools, text: Constraint | None = None) -> Constraint | None:
        """What keeps an answer to calls that the tools can take; None: nothing does.

        text   what an answer that calls nothing must be. Raises RequestRefused where both can't be enforced.
        """

    def reader(self, tools: Tools, text: Constraint | None = None) -> CallReader:
        """What tells an answer's calls from its text, which is what text says."""


class Embedder(Protocol):
    """Texts → vectors. max_tokens is the longest text that it reads; a vector has so many dimensions."""

    @property
    def name(self) -> str: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids, with those around them that the model wants around a text."""

    def embed(self, batch: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """One vector for each text in token ids. Raises ValueError for one that the model can't read."""


@dataclass(frozen=True, slots=True)
class Served:
    """name is what clients ask for; context_tokens is room for prompt and answer together.

    vocabulary_tokens counts the token ids that a prompt may hold. tool_use None: the model calls no tools.
    """

    name: str
    tokenizer: Tokenizer
    context_tokens: int
    vocabulary_tokens: int
    tool_use: ToolUse | None = None


__all__ = [
    "CallReader",
    "Embedder",
    "Engine",
    "Served",
    "Stats",
    "Tokenizer",
    "ToolUse",
]
