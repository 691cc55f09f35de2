"""/tokenize and /detokenize."""

import json
from typing import Any

import pytest

from tests.serving.server.asking import post
from tests.serving.server.fakes import CONTEXT_TOKENS, ListRecorder
from tests.serving.server.serving_here import RunningServer


def ask(server: RunningServer, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    return post(server.url, json.dumps(body).encode(), path)


def test_a_text_becomes_tokens_and_these_the_text(
    server: RunningServer, recorder: ListRecorder
) -> None:
    status, said = ask(server, "/tokenize", model="fake-model", prompt="añ")
    assert (status, said) == (
        200,
        {
            "count": 3,
            "max_model_len": CONTEXT_TOKENS,
            "tokens": [97, 195, 177],
            "token_strs": None,
        },
    )
    assert ask(server, "/detokenize", tokens=said["tokens"]) == (200, {"prompt": "añ"})
    assert recorder.calls == [], "nothing was computed on the device"


def test_messages_have_the_tokens_that_their_answer_would_be_asked_with(
    server: RunningServer,
) -> None:
    messages = [{"role": "user", "content": "ab"}, {"role": "user", "content": "c"}]
    _, said = ask(server, "/tokenize", messages=messages, return_token_strs=True)
    assert said["tokens"] == list(b"ab\nc")
    assert said["token_strs"] == ["a", "b", "\n", "c"]


def test_nothing_is_nothing(server: RunningServer) -> None:
    assert ask(server, "/tokenize", prompt="")[1]["tokens"] == []
    assert ask(server, "/detokenize", tokens=[]) == (200, {"prompt": ""})


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "gpt-9"}, 404, "model"),
        ("/tokenize", {"prompt": "a", "never_heard_of": 1}, 400, "never_heard_of"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": False},
            400,
            "add_generation_prompt",
        ),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": "abc"}, 400, "tokens"),
        ("/detokenize", {"tokens": [256]}, 400, "tokens"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    server: RunningServer, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    found, said = ask(server, path, **body)
    assert (found, said["error"]["param"]) == (status, param)
