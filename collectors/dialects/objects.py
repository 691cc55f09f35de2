"""Objects that stand as text in an attribute: JSON, or what Python's repr() wrote. Read, and dropped.

They come from the sender, so nothing in them may raise, nor take longer than their length asks for.
"""

import json
import re
from typing import Any

MAX_CHARACTERS = 1 << 20  # an answer as JSON; a longer one is not read
MAX_REPR_CHARACTERS = 1 << 14  # a usage object is a few hundred characters
# What repr() writes for dicts of names and numbers. No quote in a text, no escape: then single quotes and JSON's
# double ones mean the same, and no code of the sender's is parsed as Python.
_PLAIN_REPR = re.compile(r"\{[\w\s{}\[\]:,.'+-]*\}")
_CONSTANTS = {"None": "null", "True": "true", "False": "false"}
_CONSTANT = re.compile(r"(?<![\w'])(?:None|True|False)(?![\w'])")


def json_object(whole: str | None) -> dict[str, Any]:
    """The object in a JSON text; empty where it is none, was cut off on its way, or is too long."""
    if not whole or not whole.startswith("{") or len(whole) > MAX_CHARACTERS:
        return {}
    try:
        parsed = json.loads(whole)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def python_object(whole: str | None) -> dict[str, Any]:
    """The dict in a repr of names and numbers; empty where it is something else, or too long."""
    if not whole or len(whole) > MAX_REPR_CHARACTERS or not _PLAIN_REPR.fullmatch(whole):
        return {}
    as_json = _CONSTANT.sub(lambda found: _CONSTANTS[found[0]], whole).replace("'", '"')
    return json_object(as_json)


def any_object(whole: str | None) -> dict[str, Any]:
    """The object in a text of either kind."""
    return json_object(whole) or python_object(whole)
