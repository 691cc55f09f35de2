"""Answers in OpenAI's shapes.

Endpoint     what tells /v1/chat/completions from /v1/completions
whole        one body with everything
chunk        one event of a stream
usage        what it took, in tokens
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.engine.request import FinishReason

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """operation is OpenTelemetry's name for it; choice and delta write a choice of a body and of a chunk."""

    operation: str
    id_prefix: str
    whole_object: str
    chunk_object: str
    choice: Callable[[str], Json]
    delta: Callable[[str, bool], Json]


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of an answer, or all of it. reason None: more is to come. begins: nothing came before."""

    index: int
    text: str
    reason: FinishReason | None
    begins: bool = True


@dataclass(frozen=True, slots=True)
class Answering:
    """What every body and chunk of one answer repeats."""

    endpoint: Endpoint
    id: str
    model: str
    created_unix_seconds: int


def _chat_choice(text: str) -> Json:
    return {"message": {"role": "assistant", "content": text, "refusal": None}}


def _chat_delta(text: str, begins: bool) -> Json:
    return {"delta": {**({"role": "assistant"} if begins else {}), "content": text}}


CHAT = Endpoint(
    operation="chat",
    id_prefix="chatcmpl-",
    whole_object="chat.completion",
    chunk_object="chat.completion.chunk",
    choice=_chat_choice,
    delta=_chat_delta,
)

COMPLETION = Endpoint(
    operation="text_completion",
    id_prefix="cmpl-",
    whole_object="text_completion",
    chunk_object="text_completion",
    choice=lambda text: {"text": text},
    delta=lambda text, _begins: {"text": text},
)


def whole(answering: Answering, choices: Sequence[Choice], used: Json) -> Json:
    endpoint = answering.endpoint
    return {
        **_envelope(answering, endpoint.whole_object),
        "choices": [_choice(each, endpoint.choice(each.text)) for each in choices],
        "usage": used,
    }


def chunk(answering: Answering, choice: Choice, *, include_usage: bool) -> Json:
    """An event with news of one choice. With include_usage it says that usage comes later, as OpenAI's do."""
    content = answering.endpoint.delta(choice.text, choice.begins)
    return {
        **_envelope(answering, answering.endpoint.chunk_object),
        "choices": [_choice(choice, content)],
        **({"usage": None} if include_usage else {}),
    }


def usage_chunk(answering: Answering, used: Json) -> Json:
    """The last event of a stream, which has no choice and says what all of them took."""
    envelope = _envelope(answering, answering.endpoint.chunk_object)
    return {**envelope, "choices": [], "usage": used}


def usage(prompt_tokens: int, output_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
    }


def model_card(name: str, created_unix_seconds: int, context_tokens: int) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": created_unix_seconds,
        "owned_by": "costwatch",
        "max_model_len": context_tokens,  # no name of OpenAI's; vLLM's clients look for it
    }


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return (
        b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def _envelope(answering: Answering, kind: str) -> Json:
    return {
        "id": answering.id,
        "object": kind,
        "created": answering.created_unix_seconds,
        "model": answering.model,
    }


def _choice(choice: Choice, content: Json) -> Json:
    reason = None if choice.reason is None else str(choice.reason)
    return {"index": choice.index, **content, "logprobs": None, "finish_reason": reason}


__all__ = [
    "CHAT",
    "COMPLETION",
    "DONE",
    "Answering",
    "Choice",
    "Endpoint",
    "chunk",
    "event",
    "model_card",
    "usage",
    "usage_chunk",
    "whole",
]
