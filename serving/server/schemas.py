"""Bodies of requests → what was asked, or BadRequest saying what is wrong with them.

ChatRequest          POST /v1/chat/completions
CompletionRequest    POST /v1/completions
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.server.errors import BadRequest, invalid, unsupported
from serving.server.parameters import Options, read_options, refuse_what_we_do_not_honour

_ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it; chat templates know the old one
    "user": "user",
    "assistant": "assistant",
}
_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions only
_MAX_PROMPTS = 64
_CHAT = frozenset({"messages", "max_completion_tokens"})
_COMPLETION = frozenset({"prompt"})


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str
    messages: tuple[Message, ...]
    options: Options


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """prompts are texts or token ids, one answer each."""

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    options: Options


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in the body, all of whose texts are Unicode. Raises BadRequest."""
    try:
        text = raw.decode()
        body = json.loads(text)
        if "\\ud" in text.lower():
            # JSON can spell half of a surrogate pair. No tokenizer takes it, and no span or answer that quotes it
            # could be sent.
            json.dumps(body, ensure_ascii=False).encode()
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
        model=_read_model(body),
        messages=_read_messages(body.get("messages")),
        options=read_options(body, max_tokens_name=name, max_tokens=None),
    )


def read_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises BadRequest."""
    refuse_what_we_do_not_honour(body, _COMPLETION)
    return CompletionRequest(
        model=_read_model(body),
        prompts=_read_prompts(body.get("prompt")),
        options=read_options(
            body, max_tokens_name="max_tokens", max_tokens=_DEFAULT_COMPLETION_TOKENS
        ),
    )


def _read_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model", model, "the name of a model; GET /v1/models lists them")
    return model


# Chat


def _read_messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise invalid("messages", value, "a list of at least one message")
    return tuple(_read_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _read_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise invalid(where, value, "an object with role and content")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"{where}.role", role, f"one of {', '.join(_ROLES)}")
    # an answer that is sent back carries its empty fields along; only what is filled would change the prompt
    for name in ("tool_calls", "function_call", "tool_call_id", "audio", "name"):
        if value.get(name):
            raise unsupported(f"{where}.{name}", value[name], "leave it out")
    return Message(_ROLES[role], _read_content(value.get("content"), f"{where}.content"))


def _read_content(value: Any, where: str) -> str:
    if isinstance(value, list):
        return "".join(_read_part(part, f"{where}[{index}]") for index, part in enumerate(value))
    if not isinstance(value, str):
        raise invalid(where, value, "a text or a list of text parts")
    return value


def _read_part(value: Any, where: str) -> str:
    if not isinstance(value, dict) or value.get("type") != "text":
        kind = value.get("type") if isinstance(value, dict) else value
        raise unsupported(f"{where}.type", kind, "this model reads text parts only")
    text = value.get("text")
    if not isinstance(text, str):
        raise invalid(f"{where}.text", text, "a text")
    return text


# Completions


def _read_prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, texts, token ids, or lists of token ids: OpenAI's four forms."""
    if isinstance(value, str) or _is_token_ids(value):
        return (_read_prompt(value, "prompt"),)
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_PROMPTS:
        raise invalid(
            "prompt", value, f"a text, token ids, or a list of at most {_MAX_PROMPTS} of either"
        )
    return tuple(_read_prompt(item, f"prompt[{index}]") for index, item in enumerate(value))


def _read_prompt(value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not _is_token_ids(value):
        raise invalid(where, value, "a text or a list of token ids")
    return tuple(value)


def _is_token_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )
