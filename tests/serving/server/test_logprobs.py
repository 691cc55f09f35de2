"""Log probabilities in each endpoint's shape."""

from typing import Any

import openai
import pytest

from tests.serving.server.asking import chat


def test_a_chat_tells_each_token_with_the_probable_ones_in_its_place(
    client: openai.OpenAI,
) -> None:
    answer = chat(client, "abc", max_tokens=2, logprobs=True, top_logprobs=2)
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.bytes, first.logprob) == ("d", [100], -0.5)
    assert [(each.token, each.logprob) for each in first.top_logprobs] == [("d", -0.5), ("e", -1.5)]
    assert second.token == "e"


def test_without_top_logprobs_there_is_the_chosen_token_alone(client: openai.OpenAI) -> None:
    answer = chat(client, "abc", max_tokens=2, logprobs=True)
    assert [each.top_logprobs for each in answer.choices[0].logprobs.content] == [[], []]
    assert chat(client, "abc", max_tokens=2).choices[0].logprobs is None


@pytest.mark.parametrize("stop", [[], ["ghij"]], ids=["", "with text held back"])
def test_a_stream_tells_every_token_once_also_while_its_text_is_held_back(
    client: openai.OpenAI, stop: list[str]
) -> None:
    how: dict[str, Any] = {"max_tokens": 6, "logprobs": True, "stop": stop}
    whole = chat(client, "abc", **how).choices[0].logprobs.content
    chunks = [chunk.choices[0] for chunk in chat(client, "abc", stream=True, **how)]
    streamed = [each for choice in chunks if choice.logprobs for each in choice.logprobs.content]
    assert streamed == whole
    assert [each.token for each in whole] == list("defghi")
    assert "".join(choice.delta.content or "" for choice in chunks) == "defghi"


def test_a_completion_tells_lists_of_one_length(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="fake-model", prompt=["abc", "k"], max_tokens=3, logprobs=2
    )
    logprobs = [choice.logprobs for choice in answer.choices]
    assert logprobs[0] is not None
    assert logprobs[0].tokens == ["d", "e", "f"]
    assert logprobs[0].token_logprobs == [-0.5] * 3
    assert logprobs[0].top_logprobs == [
        {"d": -0.5, "e": -1.5},
        {"e": -0.5, "f": -1.5},
        {"f": -0.5, "g": -1.5},
    ]
    assert logprobs[0].text_offset == [0, 1, 2]
    assert logprobs[1] is not None
    assert logprobs[1].tokens == ["l", "m", "n"]


def test_a_completions_stream_goes_on_counting_where_the_last_chunk_ended(
    client: openai.OpenAI,
) -> None:
    stream = client.completions.create(
        model="fake-model", prompt="abc", max_tokens=3, logprobs=0, stream=True
    )
    logprobs = [chunk.choices[0].logprobs for chunk in stream]
    assert [each.text_offset for each in logprobs if each] == [[0], [1], [2]]
    assert [each.top_logprobs for each in logprobs if each] == [
        [{"d": -0.5}],
        [{"e": -0.5}],
        [{"f": -0.5}],
    ]


def test_a_response_tells_them_where_they_are_asked_for(client: openai.OpenAI) -> None:
    how: dict[str, Any] = {
        "model": "fake-model",
        "input": "abc",
        "max_output_tokens": 2,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    answer = client.responses.create(**how)
    part: Any = answer.output[0]
    assert [each.token for each in part.content[0].logprobs] == ["d", "e"]
    assert [each.token for each in part.content[0].logprobs[0].top_logprobs] == ["d", "e"]
    deltas = [
        event.logprobs
        for event in client.responses.create(**how, stream=True)
        if event.type == "response.output_text.delta"
    ]
    assert [each.token for delta in deltas for each in delta] == ["d", "e"]


def test_a_piece_of_a_character_has_no_bytes_of_its_own(client: openai.OpenAI) -> None:
    answer = chat(client, "\u00fe", max_tokens=1, logprobs=True, top_logprobs=20)
    tops = answer.choices[0].logprobs.content[0].top_logprobs
    assert {each.token for each in tops if each.bytes is None} <= {"\ufffd"}
