"""One field of a request's body → its value, or BadRequest that names the field, what it holds and what it may hold."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from serving.server.errors import invalid

Body = Mapping[str, Any]


def parse_json(text: str) -> Any:
    """The value that the text spells. Raises ValueError that says where it is no JSON, or no Unicode.

    JSON can spell half of a surrogate pair. No tokenizer takes it, and no span or answer that quotes it could be sent.
    """
    value = json.loads(text, parse_constant=_refuse_constant)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def json_in_text(value: str, where: str, expected: str) -> Any:
    """The value that a field's text spells."""
    try:
        return parse_json(value)
    except ValueError as error:
        raise invalid(where, value, f"{expected}; it is no JSON: {error}") from error


def whole(body: Body, name: str, *, at_least: int, at_most: int) -> int | None:
    """A whole number in these bounds; None where the field is missing or null."""
    value = body.get(name)
    if value is None:
        return None
    if not is_whole(value) or not at_least <= value <= at_most:
        raise invalid(name, value, f"a whole number from {at_least} to {at_most}")
    return int(value)


def number(
    body: Body,
    name: str,
    default: float,
    *,
    at_least: float = 0,
    at_most: float,
    above: bool = False,
) -> float:
    """A number in these bounds; above leaves at_least itself out."""
    value = body.get(name)
    if value is None:
        return default
    # NaN compares false with everything, so it has to pass a comparison to be taken
    if not is_number(value) or not at_least <= value <= at_most or (above and not value > at_least):
        begin = f"above {at_least:g}" if above else f"from {at_least:g}"
        raise invalid(name, value, f"a number {begin} to {at_most:g}")
    return float(value)


def flag(body: Body, name: str, *, where: str = "", default: bool = False) -> bool:
    """where is what the object is called that has the field, for the message."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(f"{where}{name}", value, "true or false")
    return value


def text(body: Body, name: str, *, where: str = "") -> str:
    """A text that is not empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise invalid(f"{where}{name}", value, "a text that is not empty")
    return value


def text_if_any(body: Body, name: str, *, where: str = "") -> str:
    """A text; empty where the field is missing or null."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(f"{where}{name}", value, "a text")
    return value


def mapping(value: Any, where: str, expected: str = "an object") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise invalid(where, value, expected)
    return value


def items(value: Any, where: str, expected: str, *, at_most: int) -> list[Any]:
    """A list of no more than this; empty where it is null."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > at_most:
        raise invalid(where, value, f"{expected}, at most {at_most}")
    return value


def is_whole(value: Any) -> bool:
    """True is an int in Python, and no number in JSON."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = [
    "Body",
    "flag",
    "is_number",
    "is_whole",
    "items",
    "json_in_text",
    "mapping",
    "number",
    "parse_json",
    "text",
    "text_if_any",
    "whole",
]
