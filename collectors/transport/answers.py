"""What an answer says about its call: id, model and usage, from an excerpt of its body.

Bodies that fit the head are parsed; of longer ones, and of streams of events, only the objects that are wanted are.
A name in JSON cannot stand inside a text, whose quotes are escaped, so a name with its quotes is found by searching.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collectors import semconv
from collectors.transport.excerpt import Excerpt
from collectors.transport.routes import Protocol

Attributes = dict[str, str | int | bool | float]

_FIRST_EVENTS = 5  # Azure's first chunk names neither id nor model
_EVENT = re.compile(rb"^data:[ ]?(\{.*)$", re.MULTILINE)
_IS_STREAM = re.compile(rb"^(?:data|event|id|retry|):", re.MULTILINE)
_USAGE = re.compile(rb'"(?:usage|usageMetadata)"\s*:\s*(?=\{)')
_TEXTS = {
    name: re.compile(rb'"' + name.encode() + rb'"\s*:\s*"([^"\\]{1,200})"')
    for name in ("id", "model", "responseId", "modelVersion", "service_tier")
}
# What a provider sends last. Clients stop reading there, so the body's own end is often never seen.
_LAST_EVENT = re.compile(
    rb'^data:[ ]?\[DONE\]|"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed))"'
    rb'|"finishReason"\s*:\s*"',
    re.MULTILINE,
)
_ERROR_EVENT = re.compile(
    rb'^(?:event:[ ]?error\b|data:[ ]?\{\s*(?:"type"\s*:\s*"error"|"error"\s*:\s*\{))'
    rb'|"type"\s*:\s*"response\.failed"',
    re.MULTILINE,
)
_ERROR_TYPE = re.compile(rb'"(?:type|code|status)"\s*:\s*"((?!error")[A-Za-z_]{1,80})"')


@dataclass(frozen=True, slots=True)
class Answer:
    """What was read of an answer; `usage` holds span attributes, in OpenTelemetry's meaning."""

    response_id: str = ""
    model: str = ""
    service_tier: str = ""
    usage: Attributes = field(default_factory=dict)
    error_type: str = ""
    is_last: bool = False  # it has what a provider sends last


def read_answer(excerpt: Excerpt, protocol: Protocol) -> Answer:
    """The answer in an excerpt, whether one JSON object or a stream of events. Nothing found is empty."""
    head, tail = excerpt.head, excerpt.tail
    if not tail and not _IS_STREAM.match(head):
        whole = _object(head)
        if whole is not None:
            return _from_objects([whole], protocol, is_last=True)
    return _from_excerpt(head, tail, protocol)


def _from_objects(
    found: Sequence[Mapping[str, Any]], protocol: Protocol, *, is_last: bool
) -> Answer:
    said = [inner for each in found for inner in (each, each.get("response"), each.get("message"))]
    objects = [each for each in said if isinstance(each, dict)]
    usages = [each.get("usage") or each.get("usageMetadata") for each in objects]
    return Answer(
        _first_text(objects, "id", "responseId"),
        _first_text(objects, "model", "modelVersion"),
        _first_text(objects, "service_tier"),
        usage_attributes([each for each in usages if isinstance(each, dict)], protocol),
        is_last=is_last,
    )


def _from_excerpt(head: bytes, tail: bytes, protocol: Protocol) -> Answer:
    events = [event for event in _first_events(head) if event is not None]
    first = _from_objects(events, protocol, is_last=False)
    end = tail or head
    is_last = _LAST_EVENT.search(end) is not None or (bool(tail) and _object_ends(head, tail))
    usages = [*_usages(head)[:1], *_usages(end)[-1:]]
    if protocol is Protocol.ANTHROPIC and not is_last:
        usages = []  # what its stream begins with is not what it will have counted
    return Answer(
        first.response_id or _search("id", head) or _search("responseId", end),
        first.model
        or _search("model", head)
        or _search("model", end)
        or _search("modelVersion", end),
        first.service_tier or _search("service_tier", end),
        usage_attributes(usages, protocol),
        _error_type(end),
        is_last,
    )


def _first_events(head: bytes) -> Iterator[dict[str, Any] | None]:
    for number, found in enumerate(_EVENT.finditer(head)):
        if number == _FIRST_EVENTS:
            return
        yield _object(found[1])


def _object_ends(head: bytes, tail: bytes) -> bool:
    """Whether one long JSON object or array ends here; a stream of events says itself where it ends."""
    closing = {b"{": b"}", b"[": b"]"}.get(head.lstrip()[:1])
    return closing is not None and tail.rstrip().endswith(closing)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(parsed, list):  # Google's stream without alt=sse is an array of chunks
        parsed = {**parsed[0], **parsed[-1]} if parsed and isinstance(parsed[0], dict) else None
    return parsed if isinstance(parsed, dict) else None


def _usages(text: bytes) -> list[Mapping[str, Any]]:
    """The first and the last usage object; the one null of every other chunk is none."""
    places = [found.end() for found in _USAGE.finditer(text)]
    found = [_object_at(text, place) for place in (places[:1] + places[1:][-1:])]
    return [usage for usage in found if usage]


def _object_at(text: bytes, place: int) -> Mapping[str, Any] | None:
    try:
        parsed, _ = json.JSONDecoder().raw_decode(
            text[place : place + 8192].decode("utf-8", "replace")
        )
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _first_text(objects: list[dict[str, Any]], *names: str) -> str:
    said = (each.get(name) for each in objects for name in names)
    return next((text for text in said if isinstance(text, str) and text), "")


def _search(name: str, text: bytes) -> str:
    found = _TEXTS[name].search(text)
    return found[1].decode("utf-8", "replace") if found else ""


def _error_type(end: bytes) -> str:
    found = _ERROR_EVENT.search(end)
    if found is None:
        return ""
    kind = _ERROR_TYPE.search(end, found.start() + len(b'data: {"type"'))
    return kind[1].decode() if kind else "error"


# Usage


def usage_attributes(usages: Sequence[Mapping[str, Any]], protocol: Protocol) -> Attributes:
    """Span attributes of the usage objects of one answer, in their order; later ones complete earlier ones."""
    if not usages:
        return {}
    merged = {name: said for usage in usages for name, said in usage.items() if said is not None}
    found = _READERS[protocol](merged)
    return {name: count for name, count in found.items() if count is not None}


def _openai(usage: Mapping[str, Any]) -> dict[str, int | None]:
    read = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    wrote = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    input_tokens = _count(usage, "prompt_tokens", "input_tokens")
    output_tokens = _count(usage, "completion_tokens", "output_tokens")
    reasoning = _count(wrote, "reasoning_tokens")
    if reasoning and None not in (input_tokens, output_tokens):
        together = (input_tokens or 0) + (output_tokens or 0) + reasoning
        if _count(usage, "total_tokens") == together:  # xAI counts reasoning beside the completion
            output_tokens = (output_tokens or 0) + reasoning
    cached = _count(read, "cached_tokens")
    return {
        semconv.USAGE_INPUT_TOKENS: input_tokens,
        semconv.USAGE_OUTPUT_TOKENS: output_tokens,
        semconv.USAGE_CACHE_READ_INPUT_TOKENS: (
            _count(usage, "prompt_cache_hit_tokens") if cached is None else cached  # DeepSeek
        ),
        semconv.USAGE_CACHE_WRITE_INPUT_TOKENS: _count(read, "cache_write_tokens"),
        semconv.USAGE_REASONING_OUTPUT_TOKENS: reasoning,
    }


def _anthropic(usage: Mapping[str, Any]) -> dict[str, int | None]:
    fresh = _count(usage, "input_tokens")
    cache_read = _count(usage, "cache_read_input_tokens")
    cache_write = _count(usage, "cache_creation_input_tokens")
    # OpenTelemetry's input includes what met a cache, Anthropic's does not.
    whole = None if fresh is None else fresh + (cache_read or 0) + (cache_write or 0)
    return {
        semconv.USAGE_INPUT_TOKENS: whole,
        semconv.USAGE_OUTPUT_TOKENS: _count(usage, "output_tokens"),
        semconv.USAGE_CACHE_READ_INPUT_TOKENS: cache_read,
        semconv.USAGE_CACHE_WRITE_INPUT_TOKENS: cache_write,
        semconv.USAGE_REASONING_OUTPUT_TOKENS: _count(
            usage.get("output_tokens_details"), "thinking_tokens"
        ),
    }


def _google(usage: Mapping[str, Any]) -> dict[str, int | None]:
    prompt = _count(usage, "promptTokenCount")
    tools = _count(usage, "toolUsePromptTokenCount") or 0
    thoughts = _count(usage, "thoughtsTokenCount")
    answer = _count(usage, "candidatesTokenCount")
    # Google counts thoughts beside the answer, and what tools brought in beside the prompt.
    output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    return {
        semconv.USAGE_INPUT_TOKENS: None if prompt is None else prompt + tools,
        semconv.USAGE_OUTPUT_TOKENS: output,
        semconv.USAGE_CACHE_READ_INPUT_TOKENS: _count(usage, "cachedContentTokenCount"),
        semconv.USAGE_REASONING_OUTPUT_TOKENS: thoughts,
    }


_READERS = {
    Protocol.OPENAI: _openai,
    Protocol.ANTHROPIC: _anthropic,
    Protocol.GOOGLE: _google,
}


def _count(said: object, *names: str) -> int | None:
    """The first of these that is a count; None where none is."""
    if not isinstance(said, dict):
        return None
    counts = (said.get(name) for name in names)
    return next(
        (
            count
            for count in counts
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0
        ),
        None,
    )
