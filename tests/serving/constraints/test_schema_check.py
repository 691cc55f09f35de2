"""Schemas that answers could break are refused, with the place and a way out."""

from typing import Any

import pytest

from serving.constraints.schema_check import check_schema
from serving.engine.request import RequestRefused


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"not": {"type": "string"}}, "at #: 'not' would not be enforced; leave it out"),
        (
            {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
            "at #/properties/a: 'uniqueItems'",
        ),
        ({"anyOf": [{"type": "null"}, {"contains": {}}]}, "at #/anyOf/1: 'contains'"),
        ({"$defs": {"x": {"if": {}, "then": {}}}}, "at #/\\$defs/x: 'if'"),
        ({"minimum": 3}, "'minimum' says nothing without a 'type' beside it"),
        ({"$ref": "#/$defs/a", "maxLength": 3}, "'maxLength' beside '\\$ref' would not be"),
        ({"type": "object", "anyOf": [{"required": ["a"]}], "properties": {}}, "beside 'anyOf'"),
        ({"allOf": [{"type": "object"}, {"type": "object"}]}, "'allOf' of more than one"),
        ({"$ref": "https://example.org/s.json"}, "only parts of the schema itself"),
        ({"type": "string", "pattern": "a", "minLength": 3}, "beside 'pattern'"),
        ({"type": "object", "required": ["a"]}, "'a' is required, and not among the properties"),
        (nested(65), "nested deeper than 64"),
    ],
)
def test_what_would_not_be_enforced_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(RequestRefused, match=problem):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"type": "array", "uniqueItems": False},
        {"$ref": "#/$defs/a", "description": "one", "default": 1, "$defs": {"a": {"type": "null"}}},
        {"type": "string", "enum": ["a"], "title": "A"},
        {"type": "object", "properties": {"not": {"type": "null"}}, "required": ["not"]},
        {"allOf": [{"type": "object"}]},
        nested(60),
    ],
)
def test_what_is_enforced_passes(schema: Any) -> None:
    check_schema(schema)
