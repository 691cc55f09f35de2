"""What an answer says about its call: id, model and usage, from an excerpt of its body.

Bodies that fit the head are parsed; of longer ones, and of streams of events, only the objects that are wanted are.
A name in JSON cannot stand inside a text, whose quotes are escaped, so a name with its quotes is found by searching.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from collectors import semconv
from collectors.transport.excerpt import Excerpt
from collectors.transport.routes import Protocol

Attributes = dict[str, str | int | bool | float]

_USAGE_BYTES = 4096  # more than any usage object has
_FIRST_EVENTS = 5  # Azure's first chunk names neither id nor model
_LAST_FEW = 4  # events; behind the one with the usage, or the error, comes little
_IS_STREAM = re.compile(rb"\s*(?:data|event|id|retry|):")
_COLON = re.compile(rb"\s*:\s*")
_TEXT = re.compile(rb'\s*:\s*"([^"\\]{1,200})"')
# What a provider sends last. Clients stop reading there, so the body's own end is often never seen.
_LAST_EVENTS = (
    b"data: [DONE]",
    b"data:[DONE]",
    b'"message_stop"',
    b'"response.completed"',
    b'"response.incomplete"',
    b'"response.failed"',
    b'"finishReason"',
)
_ERROR_EVENT = re.compile(
    rb'^(?:event:[ ]?error\b|data:[ ]?\{\s*(?:"type"\s*:\s*"error"|"error"\s*:\s*\{))'
    rb'|"type"\s*:\s*"response\.failed"',
    re.MULTILINE,
)
_ERROR_TYPE = re.compile(rb'"(?:type|code|status)"\s*:\s*"((?!error")[A-Za-z_]{1,80})"')
_decode_json = json.JSONDecoder().raw_decode


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
    first = _from_first_event(head, protocol)
    end = tail or head
    last = _last_events(end)
    is_last = any(each in last for each in _LAST_EVENTS) or (
        bool(tail) and _object_ends(head, tail)
    )
    usages = [_last_usage(end)]
    if protocol is Protocol.ANTHROPIC:
        # What its stream begins with is not what it will have counted.
        usages = [_first_usage(head), *usages] if is_last else []
    return Answer(
        first.response_id or _search(b'"id"', head) or _search(b'"responseId"', end),
        first.model
        or _search(b'"model"', head)
        or _search(b'"model"', end)
        or _search(b'"modelVersion"', end),
        first.service_tier or _search(b'"service_tier"', last),
        usage_attributes([usage for usage in usages if usage], protocol),
        _error_type(last),
        is_last,
    )


def _from_first_event(head: bytes, protocol: Protocol) -> Answer:
    """What the first event says that names its call."""
    place = head.find(b"data:")
    for _ in range(_FIRST_EVENTS):
        if place < 0:
            break
        line_end = head.find(b"\n", place)
        parsed = _object(head[place + 5 : len(head) if line_end < 0 else line_end])
        found = _from_objects([parsed or {}], protocol, is_last=False)
        if found.response_id:
            return found
        place = head.find(b"\ndata:", place) + 1 or -1
    return Answer()


def _last_events(end: bytes) -> bytes:
    """The last few events, with their lines' beginnings; all of it where there are fewer, or none."""
    place = len(end)
    for _ in range(_LAST_FEW):
        place = end.rfind(b"\ndata:", 0, place)
        if place < 0:
            return end
    return end[place:]


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


def _first_usage(text: bytes) -> Mapping[str, Any] | None:
    """The usage of an answer's first event, where it has one: Anthropic counts what it reads there."""
    place = text.find(b'"usage"')
    return None if place < 0 else _object_after(text, place + len(b'"usage"'))


def _last_usage(text: bytes) -> Mapping[str, Any] | None:
    """The last usage object; every other chunk may say that it has none yet."""
    for name in (b'"usage"', b'"usageMetadata"'):
        place = text.rfind(name)
        while place >= 0:
            found = _object_after(text, place + len(name))
            if found:
                return found
            place = text.rfind(name, 0, place)
    return None


def _object_after(text: bytes, place: int) -> Mapping[str, Any] | None:
    """The JSON object after a name that ends there; None where something else is."""
    colon = _COLON.match(text, place)
    if colon is None or text[colon.end() : colon.end() + 1] != b"{":
        return None
    window = text[colon.end() : colon.end() + _USAGE_BYTES].decode("utf-8", "replace")
    try:
        parsed, _ = _decode_json(window)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _first_text(objects: list[dict[str, Any]], *names: str) -> str:
    for each in objects:
        for name in names:
            text = each.get(name)
            if isinstance(text, str) and text:
                return text
    return ""


def _search(name: bytes, text: bytes) -> str:
    place = text.find(name)
    found = _TEXT.match(text, place + len(name)) if place >= 0 else None
    return found[1].decode("utf-8", "replace") if found else ""


def _error_type(end: bytes) -> str:
    found = None
    if b'"error"' in end or b'"response.failed"' in end:
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
    for name in names:
        count = said.get(name)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            return count
    return None
