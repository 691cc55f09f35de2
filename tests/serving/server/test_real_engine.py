"""The server over the real engine, with a model of a few thousand random weights."""

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
import torch

from collectors import semconv
from serving.engine.engine import Engine, EngineConfig
from serving.server.app import build_app
from serving.server.run import devices_of, served_model
from serving.server.telemetry import Telemetry
from serving.weights import load
from tests.serving.server.fakes import ListRecorder
from tests.serving.server.serving_here import Receiver, RunningServer, eventually, running, said
from tests.serving.server.test_metrics import parsed
from tests.serving.server.tiny_model import CONTEXT_TOKENS

MESSAGES: Any = [{"role": "user", "content": "what the team requests of the model"}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0}


@pytest.fixture
def url(tiny_model: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(_running(tiny_model)).url


@contextlib.contextmanager
def _running(tiny_model: Path) -> Iterator[RunningServer]:
    loaded = load(str(tiny_model), dtype=torch.float32, cache_dir=None)
    engine = Engine(loaded, EngineConfig())
    engine.start()
    telemetry = Telemetry(devices_of(loaded), lambda: [engine.clock()])
    try:
        with running(build_app(served_model(loaded, engine, "tiny"), engine, telemetry)) as server:
            yield server
    finally:
        engine.stop()
        telemetry.close()


@pytest.mark.parametrize(
    "how", [{"max_tokens": 12}, {"max_tokens": 12, "seed": 5, "temperature": 1}]
)
def test_streamed_or_whole_it_is_the_same_answer_and_usage(url: str, how: Any) -> None:
    asked = {**GREEDY, "messages": MESSAGES, **how}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        whole = client.chat.completions.create(**asked)
        *chunks, last = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.completion_tokens == 12


def test_a_prompt_in_text_and_in_token_ids_is_answered_alike(url: str, tiny_model: Path) -> None:
    tokenizer = load(str(tiny_model), dtype=torch.float32, cache_dir=None).tokenizer
    token_ids = tokenizer.encode("the answer")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.completions.create(**GREEDY, prompt=["the answer"])
        same = client.completions.create(**GREEDY, prompt=token_ids)
    assert answer.choices[0].text == same.choices[0].text
    assert answer.usage == same.usage


def test_the_context_is_a_limit_on_the_prompt_and_an_end_of_the_answer(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**GREEDY, prompt=[5] * CONTEXT_TOKENS)
        assert caught.value.code == "context_length_exceeded"
        answer = client.completions.create(
            **GREEDY,
            prompt=[5] * (CONTEXT_TOKENS - 6),
            max_tokens=100,
            extra_body={"ignore_eos": True},
        )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens <= CONTEXT_TOKENS


def test_under_load_the_spans_sum_to_what_the_clients_saw_and_the_device_spent(
    tiny_model: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    with _running(tiny_model) as server:
        usages = asyncio.run(_load(server.url))
    spans = [said(span.attributes) for span in receiver.spans()]
    whole = [
        span
        for span in spans
        if semconv.ERROR_TYPE not in span and span[semconv.OPERATION_NAME] == "text_completion"
    ]
    assert len(spans) == 24
    assert sum(span[semconv.USAGE_INPUT_TOKENS] for span in whole) == sum(u[0] for u in usages)
    assert sum(span[semconv.USAGE_OUTPUT_TOKENS] for span in whole) == sum(u[1] for u in usages)
    points = receiver.points(semconv.DEVICE_TIME)[-1]
    by_state = {said(p.attributes)[semconv.DEVICE_STATE]: p.as_int for p in points}
    assert sum(span.get(semconv.DEVICE_NS, 0) for span in spans) == by_state["attributed"] > 0
    assert sum(by_state.values()) == points[0].time_unix_nano - points[0].start_time_unix_nano
    assert by_state["unattributed"] > 0, "the warm-up was for nobody"


def test_what_the_prefix_cache_held_is_told_and_not_offered_as_a_saving(
    tiny_model: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    asked: Any = {**GREEDY, "prompt": [7] * 40, "max_tokens": 2}
    with (
        _running(tiny_model) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        usages = [client.completions.create(**asked).usage for _ in range(2)]
    assert [usage.prompt_tokens_details.cached_tokens for usage in usages if usage] == [0, 32]
    spans = [said(span.attributes) for span in receiver.spans()]
    told = [
        (
            span[semconv.USAGE_INPUT_TOKENS],
            span[semconv.USAGE_CACHE_READ_INPUT_TOKENS],
            span[semconv.PREFIX_REPEATED_TOKENS],
        )
        for span in spans
    ]
    assert told == [(40, 0, 0), (40, 32, 0)]


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Basel"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is_called_with_what_it_can_take(url: str, stream: bool) -> None:
    asked: Any = {"messages": MESSAGES, "model": GREEDY["model"], "max_tokens": 200, "seed": 1}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            **asked, tools=[TOOL], tool_choice="required", stream=stream
        )
        if stream:
            deltas = [call for chunk in answer for call in chunk.choices[0].delta.tool_calls or ()]
            names = [call.function.name for call in deltas if call.function.name]
            called = "".join(call.function.arguments or "" for call in deltas if not call.index)
        else:
            message = answer.choices[0].message
            names = [call.function.name for call in message.tool_calls]
            called = message.tool_calls[0].function.arguments
            assert answer.choices[0].finish_reason == "tool_calls"
    assert set(names) == {"find"}
    arguments = json.loads(called)
    assert arguments["city"] in ("Bern", "Basel")
    assert arguments["days"] in (1, 2)


def test_a_tool_that_cannot_be_held_to_is_refused_by_name(url: str) -> None:
    function = {"name": "find", "strict": True, "parameters": {"type": "object", "not": {}}}
    asked: Any = {"messages": MESSAGES, "model": GREEDY["model"]}
    tools: Any = [{"type": "function", "function": function}]
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        pytest.raises(openai.BadRequestError, match="not") as refused,
    ):
        client.chat.completions.create(**asked, tools=tools, tool_choice="required")
    assert refused.value.param == "tools"


async def _load(url: str) -> list[tuple[int, int]]:
    """16 answers, 4 refusals, 4 streams that are left; what the answers said they took."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answers = [
            client.completions.create(
                **GREEDY, prompt="the team " * (n + 1), max_tokens=10 + n, extra_body={"top_k": 1}
            )
            for n in range(16)
        ]
        refusals = [client.completions.create(model="x", prompt="a") for _ in range(4)]
        leaving = [_leave(client) for _ in range(4)]
        found = await asyncio.gather(*answers, *refusals, *leaving, return_exceptions=True)
    usages = [each.usage for each in found[:16]]
    assert all(isinstance(each, openai.NotFoundError) for each in found[16:20])
    return [(usage.prompt_tokens, usage.completion_tokens) for usage in usages]


async def _leave(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        **GREEDY, messages=MESSAGES, stream=True, extra_body={"ignore_eos": True}
    )
    async with stream:
        await anext(aiter(stream))


def test_an_engine_is_free_again_when_a_client_has_left(tiny_model: Path) -> None:
    loaded = load(str(tiny_model), dtype=torch.float32, cache_dir=None)
    engine = Engine(loaded, EngineConfig())
    engine.start()
    recorder = ListRecorder()
    try:
        with running(build_app(served_model(loaded, engine, "tiny"), engine, recorder)) as server:
            asyncio.run(_one_leaves(server.url))
            eventually(lambda: recorder.calls, "the record of who left")
            assert engine.stats().running == engine.stats().waiting == 0
            assert engine.stats().kv_blocks_used == 0
    finally:
        engine.stop()


async def _one_leaves(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        await _leave(client)


def test_sampled_answers_of_one_request_differ_as_their_seeds_do_and_come_again(url: str) -> None:
    asked: Any = {"model": "tiny", "messages": MESSAGES, "n": 3, "seed": 11, "max_tokens": 12}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        several = client.chat.completions.create(**asked)
        second = client.chat.completions.create(**{**asked, "n": 1, "seed": 12})
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) > 1
    assert second.choices[0].message.content == texts[1]
    assert several.usage is not None
    assert second.usage is not None
    assert several.usage.prompt_tokens == second.usage.prompt_tokens


def test_a_prompt_that_was_asked_before_is_read_from_the_cache(url: str) -> None:
    prompt = "the model that serves the requests of the team " * 5
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        first, again = (
            client.completions.create(**GREEDY, prompt=prompt, max_tokens=4).usage for _ in range(2)
        )
    assert first is not None
    assert first.prompt_tokens_details is not None
    assert first.prompt_tokens_details.cached_tokens == 0
    assert again is not None
    assert again.prompt_tokens_details is not None
    assert 0 < again.prompt_tokens_details.cached_tokens < again.prompt_tokens


def test_greedy_takes_the_most_probable_token_and_says_how_probable(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            **GREEDY, messages=MESSAGES, max_tokens=6, logprobs=True, top_logprobs=3
        )
    assert answer.choices[0].logprobs is not None
    entries = answer.choices[0].logprobs.content or []
    assert len(entries) == 6
    for entry in entries:
        assert entry.logprob == entry.top_logprobs[0].logprob
        tops = [each.logprob for each in entry.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert all(each < 0 for each in tops)


def test_bias_penalties_and_stop_tokens_reach_the_answer(url: str) -> None:
    how: Any = {**GREEDY, "prompt": "the team", "max_tokens": 8}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        only = {"logit_bias": {"40": 100}, "extra_body": {"ignore_eos": True}}
        biased = client.completions.create(**how, **only, logprobs=0)
        stopped = client.completions.create(
            **how, logit_bias={"40": 100}, extra_body={"stop_token_ids": [40]}
        )
        varied = client.completions.create(**how, logprobs=0, frequency_penalty=2)
    assert biased.choices[0].logprobs is not None
    assert len(set(biased.choices[0].logprobs.tokens or [])) == 1
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens == 1
    assert varied.choices[0].logprobs is not None


def test_the_metrics_of_an_engine_that_has_answered(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        client.completions.create(**GREEDY, prompt="the team", max_tokens=5)
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        found = parsed(answer.read().decode())
    tiny = ("model_name", "tiny")
    engine = ("engine", "0")
    assert found["vllm:generation_tokens_total", (tiny, engine)] == 5
    assert found["vllm:num_requests_running", (tiny, engine)] == 0
    assert found["costwatch:device_seconds_total", (tiny, ("state", "attributed"))] > 0
    assert found["costwatch:device_seconds_total", (tiny, ("state", "unattributed"))] > 0


def test_a_response_is_answered_by_the_same_engine(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        chat = client.chat.completions.create(**GREEDY, messages=MESSAGES, max_tokens=8)
        response = client.responses.create(
            **GREEDY, input=MESSAGES[0]["content"], max_output_tokens=8
        )
    assert response.output_text == chat.choices[0].message.content


class Answer(pydantic.BaseModel):
    team: Literal["search", "ads"]
    urgent: bool


def test_random_weights_answer_in_the_form_that_was_asked_for(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        parsed_chat = client.chat.completions.parse(
            model="tiny", seed=1, messages=MESSAGES, response_format=Answer
        )
        parsed_response = client.responses.parse(
            model="tiny", input="which team?", text_format=Answer, max_output_tokens=100
        )
        digits = client.completions.create(
            model="tiny", prompt="the", extra_body={"guided_regex": "[0-9]{3}"}
        )
        chosen = client.completions.create(
            model="tiny", prompt="the", extra_body={"structured_outputs": {"choice": ["a b", 'c"']}}
        )
    assert isinstance(parsed_chat.choices[0].message.parsed, Answer)
    assert isinstance(parsed_response.output_parsed, Answer)
    assert digits.choices[0].text.isdecimal()
    assert len(digits.choices[0].text) == 3
    assert chosen.choices[0].text in ("a b", 'c"')
    assert {parsed_chat.choices[0].finish_reason, digits.choices[0].finish_reason} == {"stop"}


def test_a_regex_that_is_none_is_the_clients_mistake(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError),
    ):
        client.completions.create(model="tiny", prompt="a", extra_body={"guided_regex": "["})
