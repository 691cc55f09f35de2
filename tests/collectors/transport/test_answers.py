"""What is read of answers: the same however they are cut, compressed and long; and nothing that is not there."""

import gzip
import json
import zlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import semconv
from collectors.transport.answers import Answer, read_answer, usage_attributes
from collectors.transport.excerpt import HEAD_BYTES, TAIL_BYTES, Excerpt
from collectors.transport.routes import Protocol

INPUT, OUTPUT = semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS
READ, WRITE = semconv.USAGE_CACHE_READ_INPUT_TOKENS, semconv.USAGE_CACHE_WRITE_INPUT_TOKENS
REASONING = semconv.USAGE_REASONING_OUTPUT_TOKENS


def read(body: bytes, protocol: Protocol, *, encoding: str = "", cuts: list[int] = []) -> Answer:  # noqa: B006  never changed
    excerpt = Excerpt(encoding)
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for begin, end in pairwise(places):
        excerpt.feed(body[begin:end])
    return read_answer(excerpt, protocol)


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


CHAT = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-2024",
    "choices": [
        {"message": {"content": 'a quoted "usage": {"prompt_tokens": 1} and {"error": 1}'}}
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
}
STREAM = (
    sse(
        {"id": "", "model": "", "choices": [], "prompt_filter_results": []},
        *[{"id": "c-1", "model": "gpt", "usage": None, "choices": [{"text": "x" * 300}]}] * 400,
        {"id": "c-1", "model": "gpt", "choices": [], "usage": CHAT["usage"]},
    )
    + b"data: [DONE]\n\n"
)
MESSAGES = sse(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": "claude",
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 40, "output_tokens": 1},
        },
    },
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12}},
    {"type": "message_stop"},
)


@given(st.lists(st.integers(min_value=0), max_size=30))
def test_how_an_answer_is_cut_into_chunks_changes_nothing(cuts: list[int]) -> None:
    usage: dict[str, Any] = {INPUT: 9, OUTPUT: 4}
    whole = json.dumps(CHAT).encode()
    assert read(whole, Protocol.OPENAI, cuts=cuts) == Answer(
        "chatcmpl-1", "gpt-4o-2024", usage=usage, is_last=True
    )
    assert len(STREAM) > HEAD_BYTES + TAIL_BYTES
    assert read(STREAM, Protocol.OPENAI, cuts=cuts) == Answer(
        "c-1", "gpt", usage=usage, is_last=True
    )
    assert read(MESSAGES, Protocol.ANTHROPIC, cuts=cuts) == Answer(
        "msg_1", "claude", usage={INPUT: 45, OUTPUT: 12, READ: 40}, is_last=True
    )


@given(
    st.lists(st.integers(min_value=0), max_size=10),
    st.sampled_from(["gzip", "zlib", "raw", "none"]),
)
def test_compression_changes_nothing(cuts: list[int], how: str) -> None:
    raw = zlib.compressobj(wbits=-15)
    body, encoding = {
        "gzip": (gzip.compress(STREAM), "gzip"),
        "zlib": (zlib.compress(STREAM), "deflate"),
        "raw": (raw.compress(STREAM) + raw.flush(), "deflate"),
        "none": (STREAM, "identity"),
    }[how]
    found = read(body, Protocol.OPENAI, encoding=encoding, cuts=cuts)
    assert found == read(STREAM, Protocol.OPENAI)


@given(st.integers(min_value=0, max_value=len(MESSAGES)))
def test_a_stream_that_was_left_reports_no_usage_that_is_not_final(left_at: int) -> None:
    found = read(MESSAGES[:left_at], Protocol.ANTHROPIC)
    assert not found.usage or found.is_last
    assert found.response_id in ("", "msg_1")


TEXTS = st.integers(0, 3000).map(lambda count: '"id": "x' + "x" * count)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, Protocol]:
    """Whole streams, as their providers write them, of any length."""
    texts = draw(st.lists(TEXTS, max_size=12))
    model = draw(st.sampled_from(["", "gpt"]))
    first = {
        "id": draw(st.sampled_from(["", "c-1"])),
        "model": model,
        "choices": [],
        "filters": draw(TEXTS),
    }
    chunks = [
        {"id": "c-1", "model": "gpt", "usage": None, "choices": [{"text": text}]} for text in texts
    ]
    last = {"id": "c-1", "model": "gpt", "choices": [], "usage": CHAT["usage"]}
    started = {
        "type": "response.created",
        "response": {"id": "r-1", "tools": draw(TEXTS), "model": "gpt", "usage": None},
    }
    deltas = [
        {"type": "response.output_text.delta", "item_id": "m-1", "delta": text} for text in texts
    ]
    completed = {
        "type": "response.completed",
        "response": {
            **started["response"],
            "output": texts,
            "usage": {"input_tokens": 3, "output_tokens": 4},
        },
    }
    begins = {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": "claude",
            "usage": {"input_tokens": 5, "output_tokens": 1},
        },
    }
    blocks = [{"type": "content_block_delta", "delta": {"text": text}} for text in texts]
    ends = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12}}
    return draw(
        st.sampled_from(
            [
                (sse(first, *chunks, last) + b"data: [DONE]\n\n", Protocol.OPENAI),
                (sse(first, *chunks) + b"data: [DONE]\n\n", Protocol.OPENAI),
                (sse(started, *deltas, completed), Protocol.OPENAI),
                (sse(begins, *blocks, ends, {"type": "message_stop"}), Protocol.ANTHROPIC),
            ]
        )
    )  # fmt: skip


@given(streams(), st.integers(1, 5000))
def test_a_stream_that_was_cut_down_to_its_ends_says_what_it_said(
    stream: tuple[bytes, Protocol], size: int
) -> None:
    body, protocol = stream
    excerpt = Excerpt()
    for place in range(0, len(body), size):
        excerpt.room().append(body[place : place + size])
    excerpt.shorten()
    assert read_answer(excerpt, protocol) == read(body, protocol)


def test_a_long_stream_waits_in_a_few_kilobytes() -> None:
    excerpt = Excerpt()
    named = STREAM[STREAM.index(b"data:", 1) :]  # not so the first, which is Azure's
    excerpt.feed(named[:8_000] + named[-8_000:])
    excerpt.shorten()
    assert excerpt.size_bytes() < 8_000
    assert read_answer(excerpt, Protocol.OPENAI).usage[INPUT] == 9


@given(st.binary(max_size=3000), st.sampled_from(list(Protocol)))
def test_garbage_is_read_as_nothing(body: bytes, protocol: Protocol) -> None:
    assert read(body, protocol).usage == {}


@given(st.binary(min_size=1, max_size=200_000))
def test_an_excerpt_is_the_beginning_and_the_end_and_stays_small(body: bytes) -> None:
    excerpt = Excerpt()
    for place in range(0, len(body), 777):
        excerpt.feed(body[place : place + 777])
    assert body.startswith(excerpt.head)
    assert body.endswith(excerpt.tail)
    assert len(excerpt.head) + len(excerpt.tail) <= HEAD_BYTES + TAIL_BYTES + 2 * 777
    if excerpt.is_whole:
        assert excerpt.head + excerpt.tail == body


@pytest.mark.parametrize(
    ("protocol", "usage", "expected"),
    [
        (
            Protocol.OPENAI,
            {
                "input_tokens": 50,
                "input_tokens_details": {"cached_tokens": 32},
                "output_tokens": 9,
                "output_tokens_details": {"reasoning_tokens": 4},
            },
            {INPUT: 50, OUTPUT: 9, READ: 32, REASONING: 4},
        ),
        # xAI: reasoning stands beside the completion.
        (
            Protocol.OPENAI,
            {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "total_tokens": 113,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            {INPUT: 10, OUTPUT: 103, REASONING: 100},
        ),
        # DeepSeek
        (
            Protocol.OPENAI,
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_cache_hit_tokens": 6},
            {INPUT: 10, OUTPUT: 3, READ: 6},
        ),
        (Protocol.OPENAI, {"prompt_tokens": 8, "total_tokens": 8}, {INPUT: 8}),
        (
            Protocol.ANTHROPIC,
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 40,
                "cache_creation_input_tokens": 10,
                "output_tokens": 3,
            },
            {INPUT: 55, OUTPUT: 3, READ: 40, WRITE: 10},
        ),
        (
            Protocol.GOOGLE,
            {
                "promptTokenCount": 90,
                "toolUsePromptTokenCount": 5,
                "cachedContentTokenCount": 30,
                "candidatesTokenCount": 6,
                "thoughtsTokenCount": 11,
            },
            {INPUT: 95, OUTPUT: 17, READ: 30, REASONING: 11},
        ),
        (Protocol.OPENAI, {"prompt_tokens": -1, "completion_tokens": True}, {}),
        (Protocol.OPENAI, {"prompt_tokens": "9", "prompt_tokens_details": [1]}, {}),
    ],
)
def test_usage_is_brought_to_opentelemetrys_meaning(
    protocol: Protocol, usage: dict[str, Any], expected: dict[str, int]
) -> None:
    assert usage_attributes([usage], protocol) == expected


def test_a_long_answer_is_read_from_its_ends() -> None:
    vector = [0.123456789] * 20_000
    body = json.dumps(
        {"data": [{"embedding": vector}], "model": "e-3", "usage": {"prompt_tokens": 8}}
    ).encode()
    assert read(body, Protocol.OPENAI) == Answer("", "e-3", usage={INPUT: 8}, is_last=True)


def test_an_error_in_a_stream_is_named() -> None:
    body = MESSAGES[:200] + b'\nevent: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n'  # fmt: skip
    assert read(body, Protocol.ANTHROPIC).error_type == "overloaded_error"
    body = b'data: {"error": {"message": "no", "type": "server_error", "code": null}}\n\n'
    assert read(body, Protocol.OPENAI).error_type == "server_error"
    assert read(json.dumps(CHAT).encode(), Protocol.OPENAI).error_type == ""
