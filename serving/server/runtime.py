"""What the server needs of the engine and the tokenizer, and nothing else of them.

Engine       takes requests, says how they get on, knows where the device's time went
Tokenizer    texts and conversations → token ids
Served       one model, ready to answer
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.engine.request import DeviceClock, Progress, Request


class Engine(Protocol):
    def submit(self, request: Request, on_progress: Callable[[Progress], None]) -> None:
        """Queue a request. on_progress is called from the engine's thread; the last call carries finished.

        Raises RequestRefused and EngineOverloaded, and then on_progress is never called.
        """

    def cancel(self, request_id: str) -> None:
        """Stop working on a request; it finishes as cancelled. An unknown id is one that has finished."""

    def clock(self) -> DeviceClock: ...

    def stop(self) -> None: ...


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]:
        """Token ids, with those around them that the model wants around a bare text."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of the prompt that asks for the next answer.

        Raises ValueError where the model has no chat template, or its template refuses the messages.
        """


@dataclass(frozen=True, slots=True)
class Served:
    """name is what clients ask for; context_tokens is room for prompt and answer together.

    vocabulary_tokens counts the token ids that a prompt may hold.
    """

    name: str
    tokenizer: Tokenizer
    context_tokens: int
    vocabulary_tokens: int


__all__ = ["Engine", "Served", "Tokenizer"]
