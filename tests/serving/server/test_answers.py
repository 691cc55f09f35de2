"""Answers, as users meet them: through OpenAI's own client, on a real port."""

import asyncio
import json
import urllib.request
from typing import Any

import openai
import pytest

from serving.engine.request import Objective, SamplingParams
from tests.serving.server.asking import chat
from tests.serving.server.fakes import CONTEXT_TOKENS, FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually


def test_a_chat_is_answered_with_what_it_took(client: openai.OpenAI) -> None:
    answer = chat(client, "abc", max_tokens=4)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "fake-model"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "defg"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_an_answer_that_ends_by_itself_says_so(client: openai.OpenAI) -> None:
    answer = chat(client, "Ends.")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("xyz", "stop")


def test_a_stream_gives_the_same_text_and_usage_as_the_whole(client: openai.OpenAI) -> None:
    whole = chat(client, "abc", max_tokens=5)
    stream = chat(client, max_tokens=5, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks[:-1]) == "defgh"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 4 + ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_ends_with_the_finish_reason(client: openai.OpenAI) -> None:
    chunks = list(chat(client, max_tokens=2, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "length"]


def test_the_async_client_is_answered_too(server: RunningServer) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [
                client.completions.create(model="fake-model", prompt=prompt, max_tokens=3)
                for prompt in ("a", "k", "x")
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == ["bcd", "lmn", "yza"]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("abc", ["def"]),
        (["abc", "x"], ["def", "yza"]),
        ([97, 98, 99], ["def"]),
        ([[97], [98, 99]], ["bcd", "def"]),
    ],
    ids=["a text", "texts", "token ids", "lists of token ids"],
)
def test_a_completion_takes_each_form_of_prompt(
    client: openai.OpenAI, prompt: Any, texts: list[str]
) -> None:
    answer = client.completions.create(model="fake-model", prompt=prompt, max_tokens=3)
    assert answer.id.startswith("cmpl-")
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(len(texts)))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * len(texts)


def test_a_stream_of_several_prompts_keeps_them_apart(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="fake-model", prompt=["a", "k"], max_tokens=3, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "bcd", 1: "lmn"}


def test_what_is_asked_of_sampling_reaches_the_engine(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    chat(
        client,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=11,
        stop=["!", "?"],
        user="u-1",
        metadata={"a": "b"},
        store=False,
        n=1,
        frequency_penalty=0.25,
        presence_penalty=-1,
        logit_bias={"97": 5, "5": -100},
        logprobs=True,
        top_logprobs=2,
        extra_body={
            "top_k": 5,
            "ignore_eos": True,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "stop_token_ids": [120, 121],
        },
    )
    assert engine.requests[-1].sampling == SamplingParams(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        seed=11,
        presence_penalty=-1.0,
        frequency_penalty=0.25,
        repetition_penalty=1.1,
        logit_bias=((5, -100.0), (97, 5.0)),
        logprobs=2,
        stop=("!", "?"),
        stop_token_ids=(120, 121),
        ignore_eos=True,
    )


def test_several_answers_to_one_prompt_are_asked_for_with_seeds_of_their_own(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    answer = chat(client, "abc", n=3, seed=7, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["defg"] * 3
    assert [request.request_id for request in engine.requests] == [
        f"{answer.id}-{number}" for number in range(3)
    ]
    assert [request.sampling.seed for request in engine.requests] == [7, 8, 9]


def test_a_prompt_is_counted_once_for_the_client_and_as_often_as_it_was_read_for_the_record(
    client: openai.OpenAI, recorder: ListRecorder
) -> None:
    answer = client.completions.create(
        model="fake-model", prompt=["abc", "k"], n=2, max_tokens=5, best_of=2
    )
    assert [choice.text for choice in answer.choices] == ["defgh", "defgh", "lmnop", "lmnop"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 20)
    eventually(lambda: recorder.calls, "the record")
    assert recorder.calls[0].prompt_tokens == 8


def test_what_the_cache_held_of_the_prompt_is_told(client: openai.OpenAI) -> None:
    chat(client, "Ends.")
    usage = chat(client, "Ends.").usage
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (5, 2)


@pytest.mark.parametrize(
    ("how", "objective", "priority"),
    [
        ({}, Objective.INTERACTIVE, 0),
        ({"service_tier": "flex"}, Objective.BATCH, 0),
        ({"service_tier": "default", "extra_body": {"priority": -3}}, Objective.INTERACTIVE, -3),
        ({"extra_body": {"service_tier": "batch"}}, Objective.BATCH, 0),
    ],
)
def test_whose_turn_it_is_comes_from_the_team_the_tier_and_the_priority(
    client: openai.OpenAI, engine: FakeEngine, how: Any, objective: Objective, priority: int
) -> None:
    answer = chat(client, "Ends.", extra_headers={"baggage": "costwatch.team=search"}, **how)
    request = engine.requests[-1]
    assert (request.team, request.objective, request.priority) == ("search", objective, priority)
    assert answer.service_tier == how.get("service_tier", answer.service_tier)


def test_without_max_tokens_a_chat_may_fill_the_context_and_a_completion_has_16(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    chat(client, "Ends.")
    assert engine.requests[-1].sampling.max_tokens == CONTEXT_TOKENS - len("Ends.")
    client.completions.create(model="fake-model", prompt="Ends.")
    assert engine.requests[-1].sampling.max_tokens == 16


def test_messages_may_come_in_parts_and_earlier_answers_as_they_were_given(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    earlier = chat(client, "Ends.").choices[0].message
    client.chat.completions.create(
        model="fake-model",
        messages=[
            {"role": "developer", "content": "short"},
            {"role": "user", "content": [{"type": "text", "text": "Ends."}]},
            earlier.model_dump(),
            {"role": "user", "content": "Again."},
        ],
    )
    assert bytes(engine.requests[-1].prompt_token_ids) == b"short\nEnds.\nxyz\nAgain."


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake-model"]
    assert client.models.retrieve("fake-model").id == "fake-model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/another")


def test_health_says_ok_and_how_many_spans_are_under_way(
    client: openai.OpenAI, server: RunningServer
) -> None:
    chat(client, "Ends.")
    with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
        said = json.load(answer)
    assert said["status"] == "ok"
    assert said["spans"] == {"recorded": 1, "sent": 0, "lost": 0}
