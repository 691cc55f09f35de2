"""Which requests are inference calls, and what they ask for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.transport.asked import NOTHING, PARSED_BYTES, Asked, read_request
from collectors.transport.routes import Protocol, find_route, provider_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", (Protocol.OPENAI, "chat", "", None)),
        ("/openai/v1/chat/completions/", (Protocol.OPENAI, "chat", "", None)),
        ("/openai/deployments/mine/chat/completions", (Protocol.OPENAI, "chat", "mine", None)),
        ("/v1/completions", (Protocol.OPENAI, "text_completion", "", None)),
        ("/v1/responses", (Protocol.OPENAI, "chat", "", None)),
        ("/v1/embeddings", (Protocol.OPENAI, "embeddings", "", None)),
        ("/v1/messages", (Protocol.ANTHROPIC, "chat", "", None)),
        (
            "/v1beta/models/gemini-3:generateContent",
            (Protocol.GOOGLE, "generate_content", "gemini-3", False),
        ),
        (
            "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent",
            (Protocol.GOOGLE, "generate_content", "g", True),
        ),
        ("/v1beta/models/e:batchEmbedContents", (Protocol.GOOGLE, "embeddings", "e", False)),
    ],
)
def test_a_call_is_known_by_its_path(path: str, expected: tuple[Any, ...]) -> None:
    route = find_route("POST", path)
    assert route is not None
    assert (route.protocol, route.operation, route.model, route.streaming) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/messages/batches",
        "/v1/messages/count_tokens",
        "/v1/responses/resp_1/cancel",
        "/v1beta/models/gemini:countTokens",
        "/v1/traces",
        "/",
        "",
    ],
)
def test_other_paths_are_no_calls(path: str) -> None:
    assert find_route("POST", path) is None


def test_only_posts_are_calls() -> None:
    assert find_route("GET", "/v1/chat/completions") is None


def test_a_path_that_others_have_too_needs_a_model_in_the_body() -> None:
    responses = find_route("POST", "/surveys/7/responses")
    assert responses is not None
    assert responses.is_ambiguous


def test_a_provider_is_known_by_its_host_and_a_look_alike_is_not() -> None:
    openai = Protocol.OPENAI
    assert provider_of("api.openai.com", openai) == "openai"
    assert provider_of("me.openai.azure.com", openai) == "azure.ai.openai"
    assert provider_of("europe-west4-aiplatform.googleapis.com", Protocol.GOOGLE) == "gcp.vertex_ai"
    assert provider_of("api.mistral.ai.evil.example", openai) == "openai"
    assert provider_of("evilapi.mistral.ai", openai) == "openai"
    assert provider_of("localhost", Protocol.ANTHROPIC) == "anthropic"


TEXTS = st.text(max_size=50).map(lambda text: text + '"model": "not this", "stream": false')


@given(TEXTS, st.booleans(), st.booleans())
def test_a_body_is_read_in_every_form(text: str, stream: bool, escapes: bool) -> None:
    body = {"model": "gpt", "messages": [{"content": text}], "stream": stream}
    written = json.dumps(body, ensure_ascii=escapes)
    forms: list[object] = [body, written, written.encode()]
    assert {read_request(form) for form in forms} == {Asked("gpt", stream)}


@given(st.booleans())
def test_a_long_body_is_read_at_its_ends(is_first: bool) -> None:
    messages = {"messages": [{"content": 'x"model": "not this"' * PARSED_BYTES}]}
    said = {"model": "gpt", "stream": True}
    body = json.dumps(said | messages if is_first else messages | said)
    assert read_request(body) == read_request(body.encode()) == Asked("gpt", True)


@given(st.one_of(st.binary(), st.text(), st.none(), st.integers(), st.lists(st.integers())))
def test_other_bodies_say_nothing(body: object) -> None:
    assert read_request(body) == NOTHING
