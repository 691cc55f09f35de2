"""The tools of a request: what the model may call, and what it must.

Tool      one function, as the request describes it
Tools     all of them, and how many calls of which are wanted
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.server import fields
from serving.server.errors import BadRequest, invalid, unsupported

_MAX_TOOLS = 128
_MAX_NAME_CHARACTERS = 64
AUTO, NONE, REQUIRED = "auto", "none", "required"
NAMES = frozenset({"tools", "tool_choice", "parallel_tool_calls"})


@dataclass(frozen=True, slots=True)
class Tool:
    """parameters is the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]
    description: str = ""
    strict: bool = False

    def for_template(self) -> dict[str, Any]:
        """As Hugging Face's chat templates read it, which is as OpenAI writes it."""
        described = {"description": self.description} if self.description else {}
        return {
            "type": "function",
            "function": {"name": self.name, **described, "parameters": self.parameters},
        }


@dataclass(frozen=True, slots=True)
class Tools:
    """choice is "auto", "none", "required", or, with only set, "required" of that one tool.

    parallel   whether one answer may hold several calls
    """

    tools: tuple[Tool, ...] = ()
    choice: str = AUTO
    only: str = ""
    parallel: bool = True

    @property
    def offered(self) -> tuple[Tool, ...]:
        """What the model hears of: a tool that must not be called is better not named."""
        return () if self.choice == NONE else self.tools

    @property
    def callable(self) -> tuple[Tool, ...]:
        """What it may call."""
        return tuple(each for each in self.offered if self.only in ("", each.name))

    @property
    def must_call(self) -> bool:
        return self.choice == REQUIRED


NO_TOOLS = Tools()


def read_tools(body: fields.Body, *, functions_below: str = "function") -> Tools:
    """Raises BadRequest.

    functions_below   the field in which name and parameters lie; empty: beside the type, as in /v1/responses
    """
    listed = fields.items(body.get("tools"), "tools", "a list of tools", at_most=_MAX_TOOLS)
    tools = tuple(
        _read_tool(each, f"tools[{place}]", functions_below) for place, each in enumerate(listed)
    )
    names = [each.name for each in tools]
    for name in names:
        if names.count(name) > 1:
            raise invalid("tools", name, "each name once")
    choice, only = _read_choice(body.get("tool_choice"), functions_below)
    _check_choice(choice, only, names)
    return Tools(tools, choice, only, fields.flag(body, "parallel_tool_calls", default=True))


def _read_tool(value: Any, where: str, functions_below: str) -> Tool:
    said = fields.mapping(value, where, "an object with type and function")
    if said.get("type") != "function":
        raise unsupported(f"{where}.type", said.get("type"), "expected function")
    if functions_below:
        where = f"{where}.{functions_below}"
        said = fields.mapping(said.get(functions_below), where, "an object with a name")
    parameters = said.get("parameters")
    return Tool(
        name=_read_name(said, where),
        parameters={"type": "object", "properties": {}}
        if parameters is None
        else fields.mapping(parameters, f"{where}.parameters", "a JSON schema"),
        description=fields.text_if_any(said, "description", where=f"{where}."),
        strict=fields.flag(said, "strict", where=f"{where}."),
    )


def _read_name(said: Mapping[str, Any], where: str) -> str:
    name = fields.text(said, "name", where=f"{where}.")
    is_plain = all(each.isascii() and (each.isalnum() or each in "_-.") for each in name)
    if not is_plain or len(name) > _MAX_NAME_CHARACTERS:
        raise invalid(
            f"{where}.name",
            name,
            f"at most {_MAX_NAME_CHARACTERS} letters, digits, underscores, dots and dashes",
        )
    return name


def _read_choice(value: Any, functions_below: str) -> tuple[str, str]:
    """(choice, the only tool)."""
    if value is None:
        return AUTO, ""
    if isinstance(value, str) and value in (AUTO, NONE, REQUIRED):
        return value, ""
    if not isinstance(value, dict):
        raise invalid("tool_choice", value, "auto, none, required, or an object that names a tool")
    if value.get("type") != "function":
        raise unsupported("tool_choice.type", value.get("type"), "expected function")
    where = "tool_choice."
    if functions_below:
        where += f"{functions_below}."
        value = fields.mapping(value.get(functions_below), where.rstrip("."))
    return REQUIRED, fields.text(value, "name", where=where)


def _check_choice(choice: str, only: str, names: list[str]) -> None:
    if choice == REQUIRED and not names:
        raise BadRequest(
            "tool_choice: asks for a call where tools has none; send tools as well",
            code="invalid_value",
            param="tool_choice",
        )
    if only and only not in names:
        raise invalid("tool_choice", only, f"one of the tools: {', '.join(names)}")


__all__ = ["AUTO", "NAMES", "NONE", "NO_TOOLS", "REQUIRED", "Tool", "Tools", "read_tools"]
