"""The messages of a chat, as chat templates read them: role and content, calls of tools and what these returned.

A message is what Hugging Face's templates expect: {"role": …, "content": text}, with "tool_calls" whose arguments are
objects, and "tool_call_id" (and "name") on what a tool returned.
"""

from collections.abc import Mapping
from typing import Any

from serving.server import fields
from serving.server.errors import invalid, unsupported

ChatMessage = Mapping[str, Any]

_ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it; chat templates know the old one
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_MAX_MESSAGES = 4_096
_MAX_CALLS = 128


def read_messages(value: Any) -> tuple[ChatMessage, ...]:
    """Raises BadRequest."""
    messages = fields.items(value, "messages", "a list of messages", at_most=_MAX_MESSAGES)
    if not messages:
        raise invalid("messages", value, "a list of at least one message")
    return tuple(_read_message(each, f"messages[{place}]") for place, each in enumerate(messages))


def _read_message(value: Any, where: str) -> ChatMessage:
    said = fields.mapping(value, where, "an object with role and content")
    role = said.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"{where}.role", role, f"one of {', '.join(_ROLES)}")
    # an answer that is sent back carries its empty fields along; only what is filled would change the prompt
    for name in _unread(role):
        if said.get(name):
            raise unsupported(f"{where}.{name}", said[name], "leave it out")
    if role == "tool":
        return _tool_message(said, where)
    if role == "assistant" and said.get("tool_calls"):
        return _calling_message(said, where)
    return {"role": _ROLES[role], "content": read_content(said.get("content"), f"{where}.content")}


def tells_of_calls(message: ChatMessage) -> bool:
    """Whether it is a call of a tool, or what one returned. Not every template can write these."""
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def _unread(role: str) -> tuple[str, ...]:
    always = ("function_call", "audio")
    if role == "tool":
        return (*always, "tool_calls")
    if role == "assistant":
        return (*always, "tool_call_id", "name")
    return (*always, "tool_calls", "tool_call_id", "name")


def _tool_message(said: Mapping[str, Any], where: str) -> ChatMessage:
    name = fields.text_if_any(said, "name", where=f"{where}.")
    return {
        "role": "tool",
        "content": read_content(said.get("content"), f"{where}.content"),
        "tool_call_id": fields.text(said, "tool_call_id", where=f"{where}."),
        **({"name": name} if name else {}),
    }


def _calling_message(said: Mapping[str, Any], where: str) -> ChatMessage:
    """The model's own message with the calls that it made; text beside them may be missing."""
    content = said.get("content")
    calls = fields.items(
        said["tool_calls"], f"{where}.tool_calls", "a list of calls", at_most=_MAX_CALLS
    )
    return {
        "role": "assistant",
        "content": "" if content is None else read_content(content, f"{where}.content"),
        "tool_calls": [
            _read_call(each, f"{where}.tool_calls[{place}]") for place, each in enumerate(calls)
        ],
    }


def _read_call(value: Any, where: str) -> dict[str, Any]:
    said = fields.mapping(value, where, "an object with id and function")
    if said.get("type", "function") != "function":
        raise unsupported(f"{where}.type", said["type"], "expected function")
    function = fields.mapping(said.get("function"), f"{where}.function")
    name = fields.text(function, "name", where=f"{where}.function.")
    arguments = read_arguments(function.get("arguments"), f"{where}.function.arguments")
    return tool_call(fields.text(said, "id", where=f"{where}."), name, arguments)


def tool_call(call_id: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call as templates read it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def read_arguments(value: Any, where: str) -> Mapping[str, Any]:
    """OpenAI has a call's arguments as JSON in a text; templates write them by themselves, so they need the object."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        value = fields.json_in_text(value, where, "a JSON object as text")
    return fields.mapping(value, where, "a JSON object as text")


def read_content(value: Any, where: str, kinds: tuple[str, ...] = ("text",)) -> str:
    """A text, or a list of text parts of these kinds."""
    if isinstance(value, list):
        return "".join(
            _read_part(part, f"{where}[{place}]", kinds) for place, part in enumerate(value)
        )
    if not isinstance(value, str):
        raise invalid(where, value, "a text or a list of text parts")
    return value


def _read_part(value: Any, where: str, kinds: tuple[str, ...]) -> str:
    kind = value.get("type") if isinstance(value, dict) else value
    if not isinstance(value, dict) or kind not in kinds:
        raise unsupported(f"{where}.type", kind, f"this model reads parts of type {kinds[0]} only")
    text = value.get("text")
    if not isinstance(text, str):
        raise invalid(f"{where}.text", text, "a text")
    return text


__all__ = [
    "ChatMessage",
    "read_arguments",
    "read_content",
    "read_messages",
    "tells_of_calls",
    "tool_call",
]
