"""Answers that must have a form: how it is asked for, and what becomes of it."""

import json
import threading
from typing import Any

import openai
import pydantic
import pytest

from serving.engine.request import Constraint, ConstraintKind
from tests.serving.server.asking import chat
from tests.serving.server.fakes import FakeEngine
from tests.serving.server.serving_here import eventually

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
JSON_SCHEMA = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))


class Trip(pydantic.BaseModel):
    city: str
    days: int


@pytest.mark.parametrize(
    ("how", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint(ConstraintKind.JSON)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True},
                }
            },
            JSON_SCHEMA,
        ),
        ({"guided_json": SCHEMA}, JSON_SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, JSON_SCHEMA),
        ({"guided_regex": "[0-9]+"}, Constraint(ConstraintKind.REGEX, "[0-9]+")),
        ({"guided_grammar": 'root ::= "a"'}, Constraint(ConstraintKind.GRAMMAR, 'root ::= "a"')),
        (
            {"guided_choice": ["a", 'say "b"']},
            Constraint(ConstraintKind.GRAMMAR, 'root ::= "a" | "say \\"b\\""'),
        ),
        ({"structured_outputs": {"json": SCHEMA, "regex": None}}, JSON_SCHEMA),
        ({"structured_outputs": {"json_object": True}}, Constraint(ConstraintKind.JSON)),
        ({"structured_outputs": {"regex": "a+"}}, Constraint(ConstraintKind.REGEX, "a+")),
        (
            {"structured_outputs": {"choice": ["a"]}},
            Constraint(ConstraintKind.GRAMMAR, 'root ::= "a"'),
        ),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            Constraint(ConstraintKind.STRUCTURAL_TAG, "{}"),
        ),
        ({"structured_outputs": {}}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_name_for_a_form_becomes_the_constraint_of_the_answer(
    client: openai.OpenAI, engine: FakeEngine, how: dict[str, Any], constraint: Constraint | None
) -> None:
    chat(client, "Ends.", extra_body=how)
    assert engine.requests[-1].sampling.constraint == constraint
    client.completions.create(model="fake-model", prompt="Ends.", extra_body=how)
    assert engine.requests[-1].sampling.constraint == constraint


def test_the_clients_own_parser_gets_its_model_filled(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = '{"city": "Bern", "days": 3}'
    answer = client.chat.completions.parse(
        model="fake-model",
        messages=[{"role": "user", "content": "A trip?"}],
        response_format=Trip,
    )
    assert answer.choices[0].message.parsed == Trip(city="Bern", days=3)
    constraint = engine.requests[-1].sampling.constraint
    assert constraint is not None
    assert set(json.loads(constraint.text)["properties"]) == {"city", "days"}
    response = client.responses.parse(model="fake-model", input="A trip?", text_format=Trip)
    assert response.output_parsed == Trip(city="Bern", days=3)
    assert engine.requests[-1].sampling.constraint == constraint


def test_the_clients_reader_of_streams_parses_as_well(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.says = '{"city": "Bern", "days": 3}'
    with client.chat.completions.stream(
        model="fake-model",
        messages=[{"role": "user", "content": "A trip?"}],
        response_format=Trip,
    ) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.parsed == Trip(city="Bern", days=3)


def test_a_form_that_cannot_be_compiled_is_the_clients_mistake(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="never closes its bracket"):
        chat(client, "abc", extra_body={"guided_regex": "["})


@pytest.mark.parametrize("forms", [1, 40])
def test_others_are_answered_while_forms_are_compiled(
    client: openai.OpenAI, engine: FakeEngine, forms: int
) -> None:
    engine.compiled.clear()
    answers: list[Any] = []
    how = {"guided_regex": "x"}
    slow = [
        threading.Thread(target=lambda: answers.append(chat(client, "Ends.", extra_body=how)))
        for _ in range(forms)
    ]
    for each in slow:
        each.start()
    eventually(lambda: engine.compiling >= min(forms, 6), "forms that are being compiled")
    assert chat(client, "Ends.", timeout=10).choices[0].message.content == "xyz"
    assert answers == []
    engine.compiled.set()
    for each in slow:
        each.join()
    assert {each.choices[0].message.content for each in answers} == {"xyz"}


def test_who_brings_a_form_when_too_many_are_compiled_is_told_to_come_back(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.RateLimitError, match="8 new constraints") as caught:
        chat(client, "abc", extra_body={"guided_regex": "too many"})
    assert caught.value.response.headers["retry-after"] == "2"


def test_who_leaves_while_a_form_is_compiled_is_not_computed_for(
    client: openai.OpenAI, engine: FakeEngine, recorder: Any
) -> None:
    engine.compiled.clear()
    engine.hold()
    with pytest.raises(openai.APITimeoutError):
        chat(client, "abc", extra_body={"guided_regex": "x"}, timeout=0.3)
    engine.compiled.set()
    eventually(lambda: recorder.calls, "the record of who left")
    assert engine.open == 0
    assert recorder.calls[0].error_type == "cancelled"
