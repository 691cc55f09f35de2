"""The body of POST /v1/responses → the chat that it comes down to.

Nothing is kept between two requests: what refers to an earlier response is refused, and the client sends its items again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serving.server import fields, formats, tools
from serving.server.errors import invalid, unsupported
from serving.server.messages import ChatMessage, read_arguments, read_content, tool_call
from serving.server.parameters import (
    ANSWERING,
    MAX_TOP_LOGPROBS,
    SAMPLING,
    read_options,
    refuse_what_we_do_not_honour,
)
from serving.server.schemas import ChatRequest, read_model
from serving.server.tools import read_tools

_LOGPROBS = "message.output_text.logprobs"
_OWN = frozenset({"include", "input", "instructions", "max_output_tokens", "text", "top_logprobs"})
_READ = SAMPLING | ANSWERING | tools.NAMES | _OWN
_ONLY_DEFAULT: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "reasoning": ({},),
    "truncation": ("disabled",),
}
_KEPT_NOWHERE = {
    "previous_response_id": "responses are not stored here; send their items again as input",
    "conversation": "conversations are not stored here; send their items again as input",
    "prompt": "prompts are not stored here; send the text as input",
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PARTS = ("input_text", "output_text", "text")
_MAX_ITEMS = 4_096


def read_response(body: Mapping[str, Any]) -> ChatRequest:
    """Raises BadRequest."""
    for name, instead in _KEPT_NOWHERE.items():
        if body.get(name) is not None:
            raise unsupported(name, body[name], instead)
    rest = {name: value for name, value in body.items() if value not in _defaults(name)}
    refuse_what_we_do_not_honour(rest, _READ)
    written = fields.mapping(body.get("text") or {}, "text")
    _check_text(written)
    said = written.get("format")
    return ChatRequest(
        model=read_model(body),
        messages=(*_instructions(body), *_read_input(body.get("input"))),
        options=read_options(
            body,
            max_tokens_name="max_output_tokens",
            logprobs=_read_logprobs(body),
            constraint=None if said is None else formats.read_format(said, "text.format"),
        ),
        tools=read_tools(body, functions_below=""),
    )


def _defaults(name: str) -> tuple[Any, ...]:
    return _ONLY_DEFAULT.get(name, ())


def _check_text(written: Mapping[str, Any]) -> None:
    for name, value in written.items():
        if name != "format" and value is not None and (name, value) != ("verbosity", "medium"):
            raise unsupported(f"text.{name}", value, "leave it out")


def _read_logprobs(body: Mapping[str, Any]) -> int | None:
    top = fields.whole(body, "top_logprobs", at_least=0, at_most=MAX_TOP_LOGPROBS)
    included = fields.items(body.get("include"), "include", "a list of names", at_most=16)
    for each in included:
        if each != _LOGPROBS:
            raise unsupported("include", each, f"expected {_LOGPROBS}")
    return top or 0 if included else None


def _instructions(body: Mapping[str, Any]) -> Iterator[ChatMessage]:
    said = fields.text_if_any(body, "instructions")
    if said:
        yield {"role": "system", "content": said}


def _read_input(value: Any) -> Sequence[ChatMessage]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    items = fields.items(value, "input", "a text or a list of items", at_most=_MAX_ITEMS)
    if not items:
        raise invalid("input", value, "a text, or a list of at least one item")
    messages: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        _add(messages, _read_item(item, f"input[{place}]"))
    return messages


def _add(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """A call is an item of its own here, and a part of the assistant's message in a chat."""
    last = messages[-1] if messages else {}
    if "tool_calls" in message and last.get("role") == "assistant":
        last["tool_calls"] = [*last.get("tool_calls", ()), *message["tool_calls"]]
    else:
        messages.append(message)


def _read_item(value: Any, where: str) -> dict[str, Any]:
    said = fields.mapping(value, where, "an item, which is an object")
    kind = said.get("type", "message")
    if kind == "message":
        return _read_message(said, where)
    if kind == "function_call":
        return _read_call(said, where)
    if kind == "function_call_output":
        return {
            "role": "tool",
            "content": read_content(said.get("output"), f"{where}.output", _PARTS),
            "tool_call_id": fields.text(said, "call_id", where=f"{where}."),
        }
    if kind == "item_reference":
        raise unsupported(f"{where}.type", kind, "items are not stored here; send the item instead")
    raise unsupported(
        f"{where}.type", kind, "expected message, function_call or function_call_output"
    )


def _read_message(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    role = said.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"{where}.role", role, f"one of {', '.join(_ROLES)}")
    content = read_content(said.get("content"), f"{where}.content", _PARTS)
    return {"role": _ROLES[role], "content": content}


def _read_call(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    call = tool_call(
        fields.text(said, "call_id", where=f"{where}."),
        fields.text(said, "name", where=f"{where}."),
        read_arguments(said.get("arguments"), f"{where}.arguments"),
    )
    return {"role": "assistant", "content": "", "tool_calls": [call]}


__all__ = ["read_response"]
