"""What a JSON schema may say so that an answer is sure to follow it.

xgrammar passes over some keywords without a word, and then gives answers that break the schema. Better to be told.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from serving.engine.request import RequestRefused

_MOST_NESTED = 64  # what is nested deeper takes minutes to compile

_IGNORED = frozenset(
    {
        "$dynamicRef",
        "contains",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "minContains",
        "not",
        "then",
        "uniqueItems",
    }
)
# They say something about a type, and hold only where the type is named beside them.
_OF_A_TYPE = frozenset(
    {
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxLength",
        "maximum",
        "minLength",
        "minimum",
        "multipleOf",
        "pattern",
    }
)
_OF_OBJECTS_AND_ARRAYS = frozenset(
    {
        "additionalProperties",
        "items",
        "maxItems",
        "maxProperties",
        "minItems",
        "minProperties",
        "patternProperties",
        "prefixItems",
        "properties",
        "propertyNames",
        "required",
    }
)
_INSTEAD_OF_THE_REST = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
_SAYS_SOMETHING = _OF_A_TYPE | _OF_OBJECTS_AND_ARRAYS | frozenset(_INSTEAD_OF_THE_REST)

_ONE = ("additionalProperties", "items", "propertyNames", "additionalItems")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def check_schema(schema: Any) -> None:
    """Raise RequestRefused, naming place and keyword, where answers could break the schema."""
    for place, each in _parts(schema, "#"):
        problem = _problem(each)
        if problem:
            raise RequestRefused(f"the json_schema can't be used: at {place}: {problem}")


def _problem(schema: Mapping[str, Any]) -> str:
    for keyword in sorted(_IGNORED & schema.keys()):
        if schema[keyword] is not False:
            return f"{keyword!r} would not be enforced; leave it out"
    for keyword in sorted(_OF_A_TYPE & schema.keys()):
        if "type" not in schema and not schema.keys() & _INSTEAD_OF_THE_REST:
            return f"{keyword!r} says nothing without a 'type' beside it"
    return _problem_of_alternatives(schema) or _problem_of_required(schema)


def _problem_of_alternatives(schema: Mapping[str, Any]) -> str:
    for keyword in _INSTEAD_OF_THE_REST:
        if keyword in schema:
            beside = sorted((_SAYS_SOMETHING & schema.keys()) - {keyword})
            if beside:
                return f"{beside[0]!r} beside {keyword!r} would not be enforced; put it inside"
    if len(schema.get("allOf", ())) > 1:
        return "'allOf' of more than one would not be enforced; merge them"
    if not str(schema.get("$ref", "#")).startswith("#"):
        return f"'$ref' to {schema['$ref']!r}: only parts of the schema itself, such as '#/$defs/item', can be referred to"
    return ""


def _problem_of_required(schema: Mapping[str, Any]) -> str:
    if "pattern" in schema and {"minLength", "maxLength"} & schema.keys():
        return "'minLength' and 'maxLength' beside 'pattern' would not be enforced; put them into the pattern"
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in properties:
            return f"{name!r} is required, and not among the properties"
    return ""


def _parts(schema: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in a schema, itself first, with its place as a JSON pointer."""
    if depth > _MOST_NESTED:
        raise RequestRefused(
            f"the json_schema can't be used: it is nested deeper than {_MOST_NESTED} schemas; use '$ref'"
        )
    if not isinstance(schema, dict):
        return  # true and false are schemas too; whatever else stands here, xgrammar says so
    yield place, schema
    for name, each in _below(schema):
        yield from _parts(each, f"{place}/{name}", depth + 1)


def _below(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in _ONE:
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            yield from ((f"{keyword}/{index}", each) for index, each in enumerate(schema[keyword]))
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), dict):
            yield from ((f"{keyword}/{name}", each) for name, each in schema[keyword].items())
