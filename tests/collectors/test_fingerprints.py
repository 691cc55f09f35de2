"""What fingerprints tell, and what they do not: laws."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import semconv
from collectors.fingerprints import (
    BOUNDARIES,
    PREFIX_HASH_CHARACTERS,
    Fingerprint,
    Fingerprints,
    from_environment,
)

OURS = Fingerprints(b"k" * 32)
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('"{}=&#\\\0ÿ'), max_size=40)
LONG_TEXTS = st.builds(lambda text, times: text * times, st.text(min_size=1), st.integers(1, 900))
ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": TEXTS | LONG_TEXTS}), min_size=1, max_size=4
)
REQUESTS = st.fixed_dictionaries(
    {"model": st.sampled_from(["gpt", "claude"]), "messages": MESSAGES},
    optional={
        "tools": st.lists(st.fixed_dictionaries({"name": TEXTS, "parameters": st.just({"a": 1})})),
        "temperature": st.sampled_from([0, 0.0, 0.7, 1]),
        "max_tokens": st.integers(1, 9),
    },
)
SETTINGS = (
    "stream", "user", "metadata", "store", "prompt_cache_key", "service_tier", "encoding_format",
)  # fmt: skip


def of(asked: dict[str, Any], operation: str = "chat", by: Fingerprints = OURS) -> Fingerprint:
    """As it is made of a request on the wire."""
    return by.of(json.loads(json.dumps(asked)), operation)


def request_hash(asked: dict[str, Any], operation: str = "chat") -> object:
    return of(asked, operation)[semconv.REQUEST_HASH]


def prefixes(found: Fingerprint) -> list[str]:
    text = str(found.get(semconv.PREFIX_HASHES, ""))
    assert len(text) % PREFIX_HASH_CHARACTERS == 0
    return [
        text[place : place + PREFIX_HASH_CHARACTERS]
        for place in range(0, len(text), PREFIX_HASH_CHARACTERS)
    ]


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts], **more}


@given(REQUESTS, st.randoms(use_true_random=False))
def test_the_order_of_names_and_the_way_of_writing_change_nothing(
    asked: dict[str, Any], random: Random
) -> None:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            names = random.sample(list(value), len(value))
            return {name: reordered(value[name]) for name in names}
        return [reordered(each) for each in value] if isinstance(value, list) else value

    other = json.dumps(reordered(asked), indent=random.choice([None, 2]), ensure_ascii=False)
    assert OURS.of(json.loads(other), "chat") == of(asked)


@given(REQUESTS, st.sampled_from(SETTINGS), st.booleans() | st.text(max_size=5))
def test_who_asks_and_how_it_is_delivered_change_nothing(
    asked: dict[str, Any], name: str, value: object
) -> None:
    assert of(asked | {name: value}) == of(asked)


@given(MESSAGES, MESSAGES)
def test_two_conversations_have_one_hash_only_if_they_are_the_same(
    one: list[Any], other: list[Any]
) -> None:
    is_one = request_hash({"messages": one}) == request_hash({"messages": other})
    assert is_one == (one == other)


@pytest.mark.parametrize(
    "more",
    [
        {"model": "another"},
        {"temperature": 0.1},
        {"seed": 7},
        {"max_tokens": 7},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"system": "Be short."},
        {"previous_response_id": "resp_1"},
        {"unheard_of": 1},
    ],
)
def test_what_the_answer_depends_on_is_in_the_requests_hash(more: dict[str, Any]) -> None:
    assert request_hash(chat("hi") | more) != request_hash(chat("hi"))
    assert request_hash(chat("hi"), "another operation") != request_hash(chat("hi"))


def test_a_parameter_that_says_nothing_is_none_and_a_number_is_its_value() -> None:
    assert of(chat("hi", temperature=None)) == of(chat("hi"))
    assert of(chat("hi", top_p=1)) == of(chat("hi", top_p=1.0))


def test_the_model_may_stand_in_the_path() -> None:
    asked = {"contents": [{"parts": [{"text": "hi"}]}]}
    one, other = (OURS.of(asked, "generate_content", model) for model in ("one", "other"))
    assert one[semconv.REQUEST_HASH] != other[semconv.REQUEST_HASH]


@given(REQUESTS)
def test_another_key_has_other_hashes(asked: dict[str, Any]) -> None:
    one, other = of(asked), of(asked, by=Fingerprints(b"K" * 32))
    assert one[semconv.REQUEST_HASH] != other[semconv.REQUEST_HASH]
    assert not set(prefixes(one)) & set(prefixes(other))


@given(REQUESTS)
def test_nothing_of_the_text_is_in_a_fingerprint(asked: dict[str, Any]) -> None:
    said = "\0".join(map(str, of(asked).values()))
    for message in asked["messages"]:
        text = message["content"]
        for place in range(0, len(text) - 8, 4):
            assert text[place : place + 8] not in said


# Prefixes


@given(st.integers(0, 200_000), st.integers(0, 50_000), st.sampled_from(["system", "messages"]))
def test_a_change_leaves_the_hashes_before_it_and_no_other(
    place: int, rest: int, where: str
) -> None:
    def asked(character: str) -> dict[str, Any]:
        text = "a" * place + character + "a" * rest
        return chat("hi") | {"system": text} if where == "system" else chat(text)

    before, after = prefixes(of(asked("a"))), prefixes(of(asked("b")))
    are_same = [one == other for one, other in zip(before, after, strict=True)]
    count = sum(are_same)
    assert are_same == [True] * count + [False] * (len(before) - count)
    structure_bytes = 64  # roles and names between the texts
    assert all(boundary <= place + structure_bytes for boundary in BOUNDARIES[:count])
    assert all(boundary > place for boundary in BOUNDARIES[count : len(before)])


def test_every_character_is_in_a_hash() -> None:
    before = prefixes(of(chat("a" * 1400)))
    assert len(before) == 2
    for place in range(1240):
        after = prefixes(of(chat("a" * place + "b" + "a" * (1399 - place))))
        assert after[1] != before[1], place


@given(REQUESTS, MESSAGES)
def test_a_conversation_that_goes_on_keeps_its_hashes(
    asked: dict[str, Any], more: list[Any]
) -> None:
    longer = prefixes(of(asked | {"messages": asked["messages"] + more}))
    before = prefixes(of(asked))
    assert longer[: len(before)] == before


@given(REQUESTS)
def test_where_the_hashes_stand_is_known_from_their_number(asked: dict[str, Any]) -> None:
    found = of(asked)
    reached = [boundary for boundary in BOUNDARIES if boundary <= int(found[semconv.PROMPT_BYTES])]
    assert len(prefixes(found)) == len(reached)


def test_boundaries_are_few_and_reach_far() -> None:
    assert BOUNDARIES[:7] == (1024, 1280, 1536, 2048, 2560, 3072, 4096)
    assert len(BOUNDARIES) == 32
    assert BOUNDARIES[-1] == 1_310_720
    assert len(prefixes(of(chat("x" * 2_000_000)))) == 32


def test_the_prefix_is_the_text_whatever_model_and_parameters_it_is_sent_to() -> None:
    one, other = chat("x" * 5000), chat("x" * 5000, temperature=0) | {"model": "another"}
    assert prefixes(of(one)) == prefixes(of(other))


def test_a_cache_breakpoint_that_moves_on_breaks_no_prefix() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    first = [{"role": "user", "content": [{"type": "text", "text": "x" * 3000, **mark}]}]
    second = [
        {"role": "user", "content": "x" * 3000},
        {"role": "assistant", "content": "y" * 3000},
        {"role": "user", "content": [{"type": "text", "text": "z", **mark}]},
    ]
    tools = [{"name": "f", "input_schema": {}, **mark}]
    before = prefixes(of({"messages": first, "tools": tools}))
    assert len(before) == 6
    assert prefixes(of({"messages": second, "tools": tools}))[: len(before)] == before


def test_an_image_counts_by_its_hash_alone() -> None:
    def asked(data: str) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        return {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "?"}]}]}

    one, other = of(asked("A" * 50_000)), of(asked("B" * 50_000))
    assert int(one[semconv.PROMPT_BYTES]) < 200
    assert one[semconv.REQUEST_HASH] != other[semconv.REQUEST_HASH]


def test_an_embedding_has_no_prefix_and_is_always_the_same() -> None:
    found = of({"model": "e", "input": ["x" * 5000, "y"]}, "embeddings")
    assert semconv.PREFIX_HASHES not in found
    assert found[semconv.REQUEST_DETERMINISTIC] is True


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.2}, False),
        ({"generationConfig": {"temperature": 0}}, True),
        ({"generationConfig": {"topK": 3}}, False),
    ],
)
def test_a_request_that_wants_the_likeliest_answer_is_deterministic(
    more: dict[str, Any], expected: bool
) -> None:
    assert of(chat("hi") | more)[semconv.REQUEST_DETERMINISTIC] is expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"input": "ab"}, {"input": ["a", "b"]}),
        ({"input": [[1, 2], [3]]}, {"input": [[1], [2, 3]]}),
        ({"input": [1, 2]}, {"input": [12]}),
        ({"prompt": "a"}, {"input": "a"}),
        (
            {"messages": [{"role": "tool", "content": ["a", "b"]}]},
            {"messages": [{"role": "tool", "content": ["a"]}, "b"]},
        ),
    ],
)
def test_the_same_letters_in_another_structure_are_another_request(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert request_hash(one) != request_hash(other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "content", "parts", "type", "role", "x"]), inner)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(["messages", "system", "tools", "input", "temperature", "generationConfig"])


@given(st.dictionaries(NAMES, JSON))
def test_whatever_is_json_has_a_fingerprint(asked: dict[str, Any]) -> None:
    assert len(str(of(asked)[semconv.REQUEST_HASH])) == 16


def test_a_half_of_a_character_has_a_fingerprint() -> None:
    assert request_hash(chat("\ud800")) != request_hash(chat("\ud801"))


# The key


def made(key: str = "", ingest_key: str = "cw_1", switch: str = "") -> Fingerprints | None:
    environ = {"COSTWATCH_FINGERPRINT_KEY": key, "COSTWATCH_FINGERPRINTS": switch}
    return from_environment(environ, ingest_key)


def test_services_of_one_key_compare_and_others_do_not() -> None:
    assert made() == made()
    assert made(ingest_key="cw_1") != made(ingest_key="cw_2")
    assert made("ours", ingest_key="cw_1") == made("ours", ingest_key="cw_2")
    assert made("ours") != made("theirs") != made()
    assert made("ours\n") == made("ours")
    assert made(" ", ingest_key="cw_1") == made(ingest_key="cw_1")


def test_without_a_key_or_when_switched_off_there_are_none() -> None:
    assert made(ingest_key="") is None
    assert made("ours", switch="off") is None
    assert made("ours", switch="OFF") is None
    assert made("ours", switch="on") is not None


@given(st.text(min_size=16, max_size=40).filter(str.strip))
def test_the_key_does_not_show_what_it_was_made_of(secret: str) -> None:
    found = made(secret)
    assert found is not None
    assert len(found.key) == 32
    assert secret.encode()[:8] not in found.key
    assert repr(found) == "Fingerprints()"


def test_a_key_of_whatever_bytes_is_a_key() -> None:
    assert made(b"\xff\xfe".decode(errors="surrogateescape")) is not None
