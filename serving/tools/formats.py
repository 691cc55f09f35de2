"""How models write calls of tools, and what keeps an answer to well-formed ones.

    HERMES    <tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>      NousResearch's, Qwen 2.5 and 3, many others
    LLAMA     {"name": "f", "parameters": {…}}                                Llama 3.1 to 3.3; several with "; " between
    MISTRAL   [TOOL_CALLS][{"name": "f", "arguments": {…}}, …]                Mistral's before their version 11

A model's chat template tells which of them it learned. A format is a table of texts: reader.py reads by it,
constraint_of() writes the structural tag for xgrammar.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.constraints.schema_check import check_schema
from serving.engine.request import Constraint, ConstraintKind, RequestRefused

_ANY_OBJECT = {"type": "object"}


class Tool(Protocol):
    """One function; parameters is the JSON schema of its arguments. strict: they must follow it."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def strict(self) -> bool: ...

    def for_template(self) -> dict[str, Any]:
        """As OpenAI's API describes it."""


class Tools(Protocol):
    """The tools of a request. offered: the model hears of them; callable: of these it may call so many.

    must_call   the answer is calls and nothing else
    only        the name of the one that must be called, or ""
    parallel    whether an answer may hold several calls
    """

    @property
    def offered(self) -> Sequence[Tool]: ...
    @property
    def callable(self) -> Sequence[Tool]: ...
    @property
    def must_call(self) -> bool: ...
    @property
    def only(self) -> str: ...
    @property
    def parallel(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How calls are written: opening, calls with separator between them, closing.

    markers     texts with which calls begin; before them all is text
    arguments   the name of the field that holds a call's arguments
    before, after   stand around each call
    token       the special token that begins the calls, as the constraint must ask for it; "" where none does
    """

    name: str
    markers: tuple[str, ...]
    arguments: str = "arguments"
    opening: str = ""
    before: str = ""
    after: str = ""
    separator: str = "\n"
    closing: str = ""
    token: str = ""

    @property
    def begins_as_object(self) -> bool:
        return any(marker.startswith("{") for marker in self.markers)

    @property
    def begins_as_list(self) -> bool:
        return any(marker.startswith("[") for marker in self.markers)

    def begin_of(self, tool_name: str) -> str:
        return f'{self.before}{{"name": {json.dumps(tool_name)}, "{self.arguments}": '

    @property
    def end(self) -> str:
        return "}" + self.after

    def written(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls (name, arguments in JSON) as the model writes them."""
        texts = (self.begin_of(name) + arguments + self.end for name, arguments in calls)
        return self.token + self.opening + self.separator.join(texts) + self.closing


HERMES = ToolFormat(
    "hermes", ("<tool_call>",), before="<tool_call>\n", after="\n</tool_call>", separator="\n"
)
LLAMA = ToolFormat("llama", ('{"name":', "<|python_tag|>"), arguments="parameters", separator="; ")
# The decoder drops special tokens, so that the reader may have to do without the first marker.
MISTRAL = ToolFormat(
    "mistral",
    ("[TOOL_CALLS]", '[{"name":'),
    opening="[",
    separator=", ",
    closing="]",
    token="[TOOL_CALLS]",
)

_LLAMA_SAYS = re.compile(r'<\|python_tag\|>|"name": function name, "parameters"')


def format_of(template: str | None) -> ToolFormat | None:
    """What a chat template teaches; None: it knows no tools, or writes them in a way that is not known here."""
    if template is None or "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return None if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template:
        return None if "<function=" in template or "<arg_key>" in template else HERMES
    return LLAMA if _LLAMA_SAYS.search(template) else None


def constraint_of(
    tools: Tools, form: ToolFormat, text: Constraint | None = None
) -> Constraint | None:
    """What keeps an answer's calls well formed, of tools that are there, with arguments that fit. None: no calls.

    text   what an answer that calls nothing must be: such an answer has no other text beside its calls.

    Raises RequestRefused where a strict tool's parameters would not be enforced, and where text could not be told from
    calls. Of a tool that isn't strict, such parameters only have to be an object.
    """
    tags = [_tag(tool, form) for tool in tools.callable]
    if not tags:
        return None
    most_one = not tools.parallel or bool(tools.only)
    one_by_one = _one_by_one(tags, form, most_one)
    if form.token:
        calls, among_text = _after_token(one_by_one, form), _token_among_text(one_by_one, form)
    else:
        calls, among_text = one_by_one, _among_text(tags, form, most_one)
    if tools.must_call:
        answer = calls
    else:
        answer = among_text if text is None else _or_else(calls, _json_schema_of(text, form))
    return Constraint(
        ConstraintKind.STRUCTURAL_TAG, json.dumps({"type": "structural_tag", "format": answer})
    )


def _or_else(calls: Any, schema: Any) -> dict[str, Any]:
    return {"type": "or", "elements": [calls, {"type": "json_schema", "json_schema": schema}]}


def _json_schema_of(text: Constraint, form: ToolFormat) -> Any:
    """The schema of an answer that is no call. Raises RequestRefused where it may begin as a call does."""
    if text.kind not in (ConstraintKind.JSON, ConstraintKind.JSON_SCHEMA):
        raise RequestRefused(
            f"an answer may be calls of tools or JSON, and not calls or what a {text.kind} says; send one of them"
        )
    schema = _ANY_OBJECT if text.kind is ConstraintKind.JSON else json.loads(text.text)
    if form.begins_as_object or (form.begins_as_list and not _is_of_objects(schema)):
        raise RequestRefused(
            "this model writes calls of tools as JSON of its own, from which such an answer could not be told: "
            "send tools or a response format"
        )
    return schema


def _is_of_objects(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "object"


def _tag(tool: Tool, form: ToolFormat) -> dict[str, Any]:
    content = {"type": "json_schema", "json_schema": _enforceable(tool)}
    return {"type": "tag", "begin": form.begin_of(tool.name), "content": content, "end": form.end}


def _enforceable(tool: Tool) -> Mapping[str, Any]:
    schema = tool.parameters
    if schema.get("type", "object") != "object":
        raise RequestRefused(
            f"the parameters of the tool {tool.name!r} are of type {schema['type']!r}: arguments are an object"
        )
    try:
        check_schema(schema)
    except RequestRefused as refusal:
        if tool.strict:
            raise RequestRefused(f"the tool {tool.name!r} can't be strict: {refusal}") from refusal
        return _ANY_OBJECT
    return schema if schema.keys() & {"$ref", "anyOf"} else {**_ANY_OBJECT, **schema}


def _one_by_one(tags: Sequence[Any], form: ToolFormat, most_one: bool) -> dict[str, Any]:
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": form.separator,
        "at_least_one": True,
        "stop_after_first": most_one,
    }


def _among_text(tags: Sequence[Any], form: ToolFormat, most_one: bool) -> dict[str, Any]:
    return {
        "type": "triggered_tags",
        "triggers": [form.markers[0]],
        "tags": tags,
        "stop_after_first": most_one,
    }


def _after_token(calls: Any, form: ToolFormat) -> dict[str, Any]:
    def text(value: str) -> dict[str, Any]:
        return {"type": "const_string", "value": value}

    # some write a space behind the token
    listed = [{"type": "optional", "content": text(" ")}, text(form.opening), calls]
    return {
        "type": "tag",
        "begin": {"type": "token", "token": form.token},
        "content": {"type": "sequence", "elements": listed},
        "end": form.closing,
    }


def _token_among_text(calls: Any, form: ToolFormat) -> dict[str, Any]:
    return {
        "type": "token_triggered_tags",
        "trigger_tokens": [form.token],
        "tags": [_after_token(calls, form)],
        "stop_after_first": True,
    }


__all__ = [
    "HERMES",
    "LLAMA",
    "MISTRAL",
    "Tool",
    "ToolFormat",
    "Tools",
    "constraint_of",
    "format_of",
]
