"""Bodies of requests → what was asked, or BadRequest saying what is wrong with them.

ChatRequest          POST /v1/chat/completions, and what POST /v1/responses comes down to
CompletionRequest    POST /v1/completions
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.server import fields, formats, tools
from serving.server.errors import BadRequest, invalid
from serving.server.messages import ChatMessage, read_messages
from serving.server.parameters import (
    GENERATION,
    MAX_TOP_LOGPROBS,
    GenerationOptions,
    read_options,
    refuse_what_we_do_not_honour,
)
from serving.server.tools import NO_TOOLS, Tools, read_tools

_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions only
_MAX_PROMPTS = 64
_MAX_ANSWERS = 256  # over all prompts
_CHAT = GENERATION | tools.NAMES | {"messages", "max_completion_tokens", "logprobs", "top_logprobs"}
_COMPLETION = GENERATION | {"prompt", "logprobs"}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str
    messages: tuple[ChatMessage, ...]
    options: GenerationOptions
    tools: Tools = NO_TOOLS


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """prompts are texts or token ids."""

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    options: GenerationOptions


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in the body, all of whose texts are Unicode. Raises BadRequest that says where it is none."""
    try:
        body = fields.parse_json(raw.decode())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON in UTF-8: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest(
            f"the body is a JSON {type(body).__name__}: expected an object", code="invalid_json"
        )
    return body


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """Raises BadRequest."""
    refuse_what_we_do_not_honour(body, _CHAT)
    # max_tokens is the old name; where both stand the new one counts, as with OpenAI
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    return ChatRequest(
        model=read_model(body),
        messages=read_messages(body.get("messages")),
        options=read_options(
            body,
            max_tokens_name=name,
            logprobs=_read_chat_logprobs(body),
            constraint=formats.read_constraint(body),
        ),
        tools=read_tools(body),
    )


def read_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises BadRequest."""
    refuse_what_we_do_not_honour(body, _COMPLETION)
    prompts = _read_prompts(body.get("prompt"))
    options = read_options(
        body,
        max_tokens_name="max_tokens",
        max_tokens=_DEFAULT_COMPLETION_TOKENS,
        logprobs=_read_logprobs(body),
        constraint=formats.read_constraint(body),
    )
    if len(prompts) * options.answers > _MAX_ANSWERS:
        raise invalid(
            "n",
            options.answers,
            f"at most {_MAX_ANSWERS} answers to one request; it has {len(prompts)} prompts",
        )
    return CompletionRequest(read_model(body), prompts, options)


def read_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", model, "the name of a model; GET /v1/models lists them")
    return model


def _read_chat_logprobs(body: Mapping[str, Any]) -> int | None:
    """How many probable tokens to report beside the chosen one; None: not even that one."""
    top = fields.whole(body, "top_logprobs", at_least=0, at_most=MAX_TOP_LOGPROBS)
    if fields.flag(body, "logprobs"):
        return top or 0
    if top:
        raise BadRequest(
            f"top_logprobs={top}: only allowed when logprobs is true",
            code="invalid_value",
            param="top_logprobs",
        )
    return None


def _read_logprobs(body: Mapping[str, Any]) -> int | None:
    """A number here, where a chat has a flag and a number; false is what clients send who mean none."""
    if body.get("logprobs") is False:
        return None
    return fields.whole(body, "logprobs", at_least=0, at_most=MAX_TOP_LOGPROBS)


def _read_prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, texts, token ids, or lists of token ids: OpenAI's four forms."""
    if isinstance(value, str) or is_token_ids(value):
        return (_read_prompt(value, "prompt"),)
    prompts = fields.items(
        value, "prompt", "a text, token ids, or a list of either", at_most=_MAX_PROMPTS
    )
    if not prompts:
        raise invalid("prompt", value, "a text, token ids, or a list of either")
    return tuple(_read_prompt(each, f"prompt[{place}]") for place, each in enumerate(prompts))


def _read_prompt(value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not is_token_ids(value):
        raise invalid(where, value, "a text or a list of token ids")
    return tuple(value)


def is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(fields.is_whole, value))


__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "is_token_ids",
    "parse_object",
    "read_chat",
    "read_completion",
    "read_model",
]
