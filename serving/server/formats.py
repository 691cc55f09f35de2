"""What an answer has to look like: OpenAI's and vLLM's names for it → Constraint.

    response_format                      {"type": "text" | "json_object" | "json_schema"}, chat completions
    text.format                          the same in /v1/responses, where a schema lies one level higher
    structured_outputs                   vLLM's: {"json": …}, {"regex": …}, {"choice": […]}, {"grammar": …}, {"json_object": true}
    guided_json, guided_regex, …         vLLM's older names for them

A request may say one of these. Whether a schema, a regex or a grammar is any good, who compiles it finds out.
"""

import json
from collections.abc import Mapping
from typing import Any

from serving.engine.request import Constraint, ConstraintKind
from serving.server import fields
from serving.server.errors import BadRequest, invalid, unsupported

_MAX_CHOICES = 1_024
_STRUCTURED = {
    "json": ConstraintKind.JSON_SCHEMA,
    "regex": ConstraintKind.REGEX,
    "choice": ConstraintKind.GRAMMAR,
    "grammar": ConstraintKind.GRAMMAR,
    "json_object": ConstraintKind.JSON,
    "structural_tag": ConstraintKind.STRUCTURAL_TAG,
}
GUIDED = frozenset({"guided_json", "guided_regex", "guided_choice", "guided_grammar"})
NAMES = GUIDED | {"response_format", "structured_outputs"}


def read_constraint(body: fields.Body) -> Constraint | None:
    """What the body's fields say. Raises BadRequest, also where two of them say something."""
    found = {name: _read(name, body[name]) for name in sorted(NAMES) if body.get(name) is not None}
    said = {name: constraint for name, constraint in found.items() if constraint is not None}
    if len(said) > 1:
        names = " and ".join(said)
        raise BadRequest(
            f"{names} each say what the answer must be; send one of them",
            code="invalid_value",
            param=next(iter(said)),
        )
    return next(iter(said.values()), None)


def _read(name: str, value: Any) -> Constraint | None:
    if name == "response_format":
        return read_format(value, name, schema_below="json_schema")
    if name == "structured_outputs":
        return _read_structured(value)
    return _of_kind(name.removeprefix("guided_"), value, name)


def read_format(value: Any, where: str, *, schema_below: str = "") -> Constraint | None:
    """A format by its type. None: text, in which anything goes.

    schema_below   the field in which name and schema lie; empty: beside the type
    """
    said = fields.mapping(value, where, 'an object such as {"type": "json_object"}')
    kind = said.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint(ConstraintKind.JSON)
    if kind != "json_schema":
        raise unsupported(f"{where}.type", kind, "expected text, json_object or json_schema")
    if schema_below:
        where = f"{where}.{schema_below}"
        said = fields.mapping(said.get(schema_below), where, "an object with name and schema")
    return _schema(said.get("schema"), f"{where}.schema")


def _read_structured(value: Any) -> Constraint | None:
    where = "structured_outputs"
    said = fields.mapping(value, where, 'an object such as {"regex": "[0-9]+"}')
    asked = {name: each for name, each in said.items() if each is not None and each is not False}
    for name, each in asked.items():
        if name not in _STRUCTURED:
            raise unsupported(f"{where}.{name}", each, f"expected one of {', '.join(_STRUCTURED)}")
    if len(asked) > 1:
        raise invalid(where, value, "one of its fields, not several")
    return next((_of_kind(name, each, f"{where}.{name}") for name, each in asked.items()), None)


def _of_kind(name: str, value: Any, where: str) -> Constraint:
    if name == "json":
        return _schema(value, where)
    if name == "json_object":
        return Constraint(ConstraintKind.JSON)
    if name == "choice":
        return Constraint(ConstraintKind.GRAMMAR, _one_of(value, where))
    if not isinstance(value, str) or not value:
        raise invalid(where, value, f"a {name.replace('_', ' ')} as text")
    return Constraint(_STRUCTURED[name], value)


def _schema(value: Any, where: str) -> Constraint:
    """A schema as an object, or as the text of one, which vLLM takes too."""
    if isinstance(value, str):
        value = fields.json_in_text(value, where, "a JSON schema")
    if not isinstance(value, Mapping):
        raise invalid(where, value, "a JSON schema, which is an object")
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(value, ensure_ascii=False))


def _one_of(value: Any, where: str) -> str:
    """A grammar of which these texts are the only answers."""
    choices = fields.items(value, where, "a list of texts", at_most=_MAX_CHOICES)
    if not choices or not all(isinstance(each, str) and each for each in choices):
        raise invalid(where, value, "a list of texts that are not empty")
    return "root ::= " + " | ".join(json.dumps(each, ensure_ascii=False) for each in choices)


__all__ = ["GUIDED", "NAMES", "read_constraint", "read_format"]
