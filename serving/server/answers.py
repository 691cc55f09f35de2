"""Answers, whatever the shape in which an endpoint writes them.

Part        what is new of one answer; a stream is made of them
Answer      all parts of one answer, put together
Usage       what a request took, in tokens
Answering   what every event of one request's answers repeats
Writer      writes them: as a body, or event by event
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.engine.request import FinishReason, TokenLogprob
from serving.server.errors import ApiError
from serving.tools.reader import CallPart

Json = dict[str, Any]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Part:
    """index counts the answers of a request. reason None: more is to come."""

    index: int
    text: str = ""
    calls: tuple[CallPart, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    reason: FinishReason | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.text or self.calls or self.logprobs or self.reason)


@dataclass(slots=True)
class ToolCall:
    """A call of a tool; arguments are JSON as the model wrote it."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    index: int
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None

    def add(self, part: Part) -> None:
        self.text += part.text
        self.logprobs += part.logprobs
        self.reason = part.reason or self.reason
        for each in part.calls:
            if each.begins:
                self.calls.append(ToolCall(each.id, each.name))
            self.calls[each.index].arguments += each.arguments


@dataclass(frozen=True, slots=True)
class Usage:
    """A prompt counts once, however many answers it got. cached_tokens is a part of prompt_tokens."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0

    def for_completions(self) -> Json:
        """In the words of /v1/chat/completions and /v1/completions."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class Answering:
    """decode writes one token as text. service_tier is empty where the request named none."""

    id: str
    model: str
    created_unix_seconds: int
    decode: Callable[[Sequence[int]], str]
    include_usage: bool = False
    service_tier: str = ""

    def envelope(self, kind: str) -> Json:
        tier = {"service_tier": self.service_tier} if self.service_tier else {}
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_unix_seconds,
            "model": self.model,
            **tier,
        }


class Writer(Protocol):
    """Writes the answers to one request. A stream is begin, parts, end or failure; what they return are its bytes."""

    def whole(self, answers: Sequence[Answer], used: Usage) -> Json: ...

    def begin(self) -> bytes: ...

    def part(self, part: Part) -> bytes: ...

    def end(self, used: Usage) -> bytes: ...

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that cannot go on."""
        ...


class Chunks:
    """The events of /v1/chat/completions and /v1/completions: an envelope, in it news of one choice.

    choice   writes a part as a choice
    """

    def __init__(self, answering: Answering, kind: str, choice: Callable[[Part], Json]) -> None:
        self._choice = choice
        self._include_usage = answering.include_usage
        # every token is an event, and in each of them this is the same
        self._head = "data: " + _encode(answering.envelope(kind))[:-1] + ',"choices":['
        # an event says that usage comes later, as OpenAI's do
        self._tail = '],"usage":null}\n\n' if self._include_usage else "]}\n\n"

    def begin(self) -> bytes:
        return b""

    def part(self, part: Part) -> bytes:
        return f"{self._head}{_encode(self._choice(part))}{self._tail}".encode()

    def end(self, used: Usage) -> bytes:
        """The last chunk has no choice and says what all of them took."""
        usage = ""
        if self._include_usage:
            usage = f'{self._head}],"usage":{_encode(used.for_completions())}}}\n\n'
        return f"{usage}data: [DONE]\n\n".encode()

    def failure(self, error: ApiError) -> bytes:
        return event(error.body())


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {_encode(body)}\n\n".encode()


def named_event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event with its type as its name, as in /v1/responses."""
    return f"event: {body['type']}\ndata: {_encode(body)}\n\n".encode()


def model_card(name: str, created_unix_seconds: int, context_tokens: int) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": created_unix_seconds,
        "owned_by": "costwatch",
        "max_model_len": context_tokens,  # no name of OpenAI's; vLLM's clients look for it
    }


def token_text(
    decode: Callable[[Sequence[int]], str], token_id: int
) -> tuple[str, list[int] | None]:
    """A token's text and its bytes; None for the bytes of one that is a piece of a character."""
    text = decode([token_id])
    return text, None if "\ufffd" in text else list(text.encode())


__all__ = [
    "Answer",
    "Answering",
    "Chunks",
    "Json",
    "Part",
    "ToolCall",
    "Usage",
    "Writer",
    "event",
    "model_card",
    "named_event",
    "token_text",
]
