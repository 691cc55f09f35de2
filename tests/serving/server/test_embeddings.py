"""/v1/embeddings through OpenAI's client."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.app import build_app
from serving.server.embeddings import batches
from serving.server.spans import Device, attributes_of
from tests.serving.server.fakes import SERVED, FakeEmbedder, FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually, running


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def server(
    engine: FakeEngine, recorder: ListRecorder, embedder: FakeEmbedder
) -> Iterator[RunningServer]:
    app = build_app(SERVED, engine, recorder, embedder=embedder)
    with running(app) as server:
        yield server


def embed(client: openai.OpenAI, asked: Any, **how: Any) -> Any:
    return client.embeddings.create(**{"model": "fake-embedder", "input": asked, **how})


@pytest.mark.parametrize("how", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
@pytest.mark.parametrize(
    ("asked", "vectors"),
    [
        ("@a", [[2, 0.25]]),
        (["@a", "@", "@bc"], [[2, 0.25], [1, 0.25], [3, 0.25]]),
        ([64, 1], [[2, 0.25]]),
        ([[64], [128, 1]], [[1, 0.25], [2, 0.5]]),
    ],
    ids=["a text", "texts", "token ids", "lists of token ids"],
)
def test_each_form_of_input_gets_its_vectors_in_each_form(
    client: openai.OpenAI, asked: Any, vectors: list[list[float]], how: Any
) -> None:
    answer = embed(client, asked, **how)
    assert answer.model == "fake-embedder"
    assert [each.index for each in answer.data] == list(range(len(vectors)))
    found = [each.embedding for each in answer.data]
    if how.get("encoding_format") == "base64":
        assert all(isinstance(each, str) for each in found)
    else:
        assert found == vectors
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(v[0] for v in vectors)


def test_the_async_client_is_answered_too(server: RunningServer) -> None:
    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [client.embeddings.create(model="fake-embedder", input="@" * n) for n in (1, 2)]
            return [answer.data[0].embedding for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [[1, 0.25], [2, 0.25]]


def test_the_models_are_both_listed_and_told_apart(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake-model", "fake-embedder"]
    assert client.models.retrieve("fake-embedder").id == "fake-embedder"
    with pytest.raises(openai.NotFoundError, match="'fake-embedder'"):
        embed(client, "a", model="fake-model")
    with pytest.raises(openai.NotFoundError, match="'fake-model'"):
        client.completions.create(model="fake-embedder", prompt="a")


@pytest.mark.parametrize(
    ("asked", "how", "param"),
    [
        ("", {}, "input"),
        ([], {}, "input"),
        (["a", ""], {}, "input[1]"),
        (["a", ["b"]], {}, "input[1]"),
        (["a", "b" * 11], {}, "input"),
        ([256], {}, "input"),
        ([-1, 300], {}, "input"),
        (["a"] * 2_049, {}, "input"),
        ("a", {"dimensions": 1}, "dimensions"),
        ("a", {"encoding_format": "int8"}, "encoding_format"),
        ("a", {"extra_body": {"never_heard_of": 1}}, "never_heard_of"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    client: openai.OpenAI, asked: Any, how: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        embed(client, asked, **how)
    assert caught.value.param == param


def test_the_dimensions_that_there_are_may_be_asked_for(client: openai.OpenAI) -> None:
    assert len(embed(client, "a", dimensions=2).data[0].embedding) == 2


def test_a_text_that_is_too_long_is_told_by_how_much(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has 11 tokens and the model reads 10"):
        embed(client, "b" * 11)


def test_an_embedding_is_a_call_that_is_charged_its_time(
    client: openai.OpenAI, recorder: ListRecorder, engine: FakeEngine
) -> None:
    embed(client, ["@a", "@"])
    eventually(lambda: recorder.calls, "the record")
    (call,) = recorder.calls
    assert (call.operation, call.response_model, call.prompt_tokens) == (
        "embeddings",
        "fake-embedder",
        3,
    )
    said = attributes_of(call, Device("d", "cpu", "cpu"))
    assert said["gen_ai.request.model"] == "fake-embedder"
    assert said["gen_ai.usage.input_tokens"] == 3
    assert "gen_ai.request.temperature" not in said
    assert call.finished[0].device_ns == engine.clock().attributed_ns > 0


def test_a_failing_embedder_is_our_fault(
    client: openai.OpenAI, recorder: ListRecorder, embedder: FakeEmbedder
) -> None:
    with pytest.raises(openai.InternalServerError, match="told to fail"):
        embed(client, "boom")
    assert embed(client, "@").data[0].embedding == [1, 0.25]
    eventually(lambda: len(recorder.calls) == 2, "two records")
    assert [call.error_type for call in recorder.calls] == ["embedder_error", ""]


def test_who_leaves_is_not_computed_for_any_further(
    client: openai.OpenAI, recorder: ListRecorder, embedder: FakeEmbedder
) -> None:
    embedder.go.clear()
    with pytest.raises(openai.APITimeoutError):
        embed(client, ["a"] * 100, timeout=0.3)
    client.models.list()  # when this is answered, the server has seen who left
    embedder.go.set()
    eventually(lambda: recorder.calls, "the record")
    assert recorder.calls[0].error_type == "cancelled"
    assert embedder.batches == [32]
    assert recorder.calls[0].prompt_tokens == 32, "what was computed is told"


def test_who_asks_while_the_server_stops_is_told_to_come_back(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.stop()
    with pytest.raises(openai.InternalServerError, match="stopping") as caught:
        embed(client, "a")
    assert caught.value.status_code == 503


def test_without_an_embedder_it_is_said_how_to_get_one(
    engine: FakeEngine, recorder: ListRecorder
) -> None:
    with (
        running(build_app(SERVED, engine, recorder)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.NotFoundError, match="start it with --embedder"),
    ):
        embed(client, "a")


@given(st.lists(st.integers(1, 600), max_size=200))
def test_every_text_is_in_one_batch_and_no_batch_is_large(lengths: list[int]) -> None:
    texts: Sequence[Sequence[int]] = [[0] * length for length in lengths]
    found = list(batches(texts))
    assert sorted(place for batch in found for place in batch) == list(range(len(texts)))
    for batch in found:
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or (len(batch) <= 32 and len(batch) * longest <= 1_024)
