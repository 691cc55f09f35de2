"""How a model is told of tools, and how it calls them.

A model whose chat template knows tools is told of them by its template. Others get an instruction in the system
message, in the format that most models have met, and their earlier calls and what these returned as text.

    ToolUse   a model's way: prompt, constraint and reader for the tools of a request. No HTTP here.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from serving.engine.request import Constraint
from serving.tools.formats import (
    HERMES,
    MISTRAL,
    ToolFormat,
    Tools,
    constraint_of,
    format_of,
)
from serving.tools.reader import CallsOrOtherReader, ToolReader
from serving.weights.tokenizer import Tokenizer

Message = Mapping[str, Any]

_INSTRUCTION = """# Tools

You may call functions to help with the request. Their signatures, as JSON, stand between <tools> and </tools>:
<tools>
{tools}
</tools>

To call a function, answer with its name and its arguments as a JSON object between <tool_call> and </tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"the argument's name": "its value"}}}}
</tool_call>"""
_MISTRAL_ID_CHARACTERS = 9  # its templates refuse any other length


class ToolUse:
    """A model's way with tools; messages are as Hugging Face's chat templates read them.

    That is {"role", "content"}, "tool_calls" with arguments as objects, and "tool_call_id" on what a tool returned.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        learned = format_of(tokenizer.tool_template)
        self._is_in_template = learned is not None
        self.form: ToolFormat = learned or HERMES

    def encode_chat(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        """Token ids of the prompt that offers the tools, perhaps none, and tells of earlier calls.

        Raises ValueError where the template refuses the messages.
        """
        if not self._is_in_template:
            return self._tokenizer.encode_chat(told_in_text(messages, tools))
        if self.form is MISTRAL:
            messages = [_with_short_ids(message) for message in messages]
        described = [tool.for_template() for tool in tools.offered]
        return self._tokenizer.encode_chat(messages, described or None)

    def constraint(self, tools: Tools, text: Constraint | None = None) -> Constraint | None:
        """What keeps an answer to calls that the tools can take; None: nothing does.

        text   what an answer that calls nothing must be.

        Raises RequestRefused where a strict tool's parameters, or text beside calls, can't be enforced.
        """
        return constraint_of(tools, self.form, text)

    def reader(
        self, tools: Tools, text: Constraint | None = None
    ) -> ToolReader | CallsOrOtherReader:
        """What tells one answer's calls from its text. text as for constraint()."""
        reader = ToolReader(self.form, [tool.name for tool in tools.callable], self._new_id)
        return reader if text is None or tools.must_call else CallsOrOtherReader(reader, self.form)

    def _new_id(self) -> str:
        number = uuid.uuid4().hex
        return number[:_MISTRAL_ID_CHARACTERS] if self.form is MISTRAL else f"call_{number}"


def told_in_text(messages: Sequence[Message], tools: Tools) -> list[Message]:
    """The messages for a template that knows no tools: the tools in the system message, calls and results as text."""
    plain = list(_joined(map(_as_text, messages)))
    if not tools.offered:
        return plain
    described = "\n".join(
        json.dumps(tool.for_template(), ensure_ascii=False) for tool in tools.offered
    )
    instruction = _INSTRUCTION.format(tools=described)
    if plain and plain[0]["role"] == "system":
        content = f"{plain[0]['content']}\n\n{instruction}"
        return [{"role": "system", "content": content}, *plain[1:]]
    return [{"role": "system", "content": instruction}, *plain]


def _as_text(message: Message) -> Message:
    content = message["content"]
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    calls = HERMES.written(
        [(each["name"], json.dumps(each["arguments"], ensure_ascii=False)) for each in functions]
    )
    return {"role": message["role"], "content": f"{content}\n{calls}" if content else calls}


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
    """One message for what several tools returned and the user said then: templates want turns to alternate."""
    last: Message | None = None
    for message in messages:
        if last is not None and message["role"] == "user" and _is_result(last):
            last = {"role": "user", "content": f"{last['content']}\n{message['content']}"}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _is_result(message: Message) -> bool:
    return message["role"] == "user" and str(message["content"]).startswith("<tool_response>")


def _with_short_ids(message: Message) -> Message:
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = _short(message["tool_call_id"])
    if message.get("tool_calls"):
        changed["tool_calls"] = [
            {**call, "id": _short(call["id"])} for call in message["tool_calls"]
        ]
    return changed


def _short(call_id: str) -> str:
    """The id itself where it is one of Mistral's, else one of that form which is always the same for it."""
    if len(call_id) == _MISTRAL_ID_CHARACTERS and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_MISTRAL_ID_CHARACTERS]


__all__ = ["Message", "ToolUse", "told_in_text"]
