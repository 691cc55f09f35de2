"""OTLP in bytes → what was asked and answered, for organizations that store it and for nobody else.

    read        the content of a body of /v1/traces, span by span
    RULES       which attributes carry content: adding a dialect's is adding rows

otlp.py, which every body goes through, knows nothing of this and reads no content.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors import otlp, wire


class Part(NamedTuple):
    """One thing that was said: by a role (system, user, …), or in the attribute of that name."""

    by: str
    text: str


@dataclass(frozen=True, slots=True)
class SpanContent:
    """What a span says of prompts and answers, in order. At least one part."""

    trace_id: bytes
    span_id: bytes
    start_unix_ns: int
    parts: tuple[Part, ...]


class Rule(NamedTuple):
    """Names of attributes, as a pattern. With the groups `index` and `field` each is a field of one message."""

    is_answer: bool
    is_whole: (
        bool  # a request or an answer in one piece: counts where no other rule found its messages
    )
    names: re.Pattern[str]


def _rule(*names: str, is_answer: bool = False, is_whole: bool = False) -> Rule:
    return Rule(is_answer, is_whole, re.compile("|".join(names)))


_MESSAGE = r"\.(?P<index>\d{1,6})\.(?P<field>.+)"

# In the order in which they are shown.
RULES: tuple[Rule, ...] = (
    _rule(r"gen_ai\.system_instructions"),
    _rule(r"gen_ai\.(?:input|request)\.messages"),
    _rule(rf"gen_ai\.prompt{_MESSAGE}"),
    _rule(rf"llm\.input_messages{_MESSAGE}"),
    _rule(rf"llm\.prompts{_MESSAGE}"),
    _rule(r"ai\.prompt\.messages"),
    _rule(r"gen_ai\.prompt", r"gen_ai\.content\.prompt", r"llm\.prompts"),
    _rule(r"llm\.(?!usage\.|token_count\.)[^.]+\.(?:system|messages|contents|input|prompt)"),
    _rule(r"llm\.prompt_template\.(?:template|variables)", r"gen_ai\.prompt\.variable\..+"),
    _rule(r"embedding\.(?:text|embeddings\.\d+\.embedding\.text)", r"ai\.values?"),
    _rule(r"gen_ai\.retrieval\.query\.text", r"reranker\.query"),
    _rule(r"langfuse\.observation\.input"),
    _rule(r"ai\.prompt", r"input\.value", r"traceloop\.entity\.input", is_whole=True),
    _rule(r"request_data", r"gcp\.vertex\.agent\.(?:llm_request|data)", is_whole=True),
    _rule(r"langfuse\.trace\.input", is_whole=True),
    _rule(r"gen_ai\.tool\.definitions", r"ai\.prompt\.(?:tools|toolChoice|format)", r"ai\.schema"),
    _rule(r"llm\.(?:tools|request\.functions)\..+", r"llm\.[^.]+\.(?:tools|functions)"),
    _rule(r"model_request_parameters"),
    _rule(r"gen_ai\.retrieval\.documents", r"(?:retrieval|reranker)\.[a-z_]*documents\..+"),
    # what a framework puts into one attribute: asked and answered together
    _rule(r"events", r"all_messages_events", r"pydantic_ai\.all_messages", r"gen_ai\.event\.content"),
    _rule(r"gen_ai\.(?:content|output)\.reasoning", r"ai\.response\.reasoning.*", is_answer=True),
    _rule(r"gen_ai\.output\.messages", is_answer=True),
    _rule(rf"gen_ai\.completion{_MESSAGE}", is_answer=True),
    _rule(rf"llm\.output_messages{_MESSAGE}", is_answer=True),
    _rule(rf"llm\.(?:completions|choices){_MESSAGE}", is_answer=True),
    _rule(r"gen_ai\.completion", r"gen_ai\.content\.completion", is_answer=True),
    _rule(r"ai\.(?:response|result)\.(?:text|object|toolCalls|files)", is_answer=True),
    _rule(r"llm\.(?!usage\.|token_count\.)[^.]+\.(?:choices|content|candidates|output)", is_answer=True),
    _rule(r"langfuse\.observation\.output", r"llm\.function_call", r"final_result", is_answer=True),
    _rule(r"gen_ai\.tool\.call\.(?:arguments|result)", r"gen_ai\.tool\.args", is_answer=True),
    _rule(r"ai\.toolCall\.(?:args|result)", r"tool_(?:arguments|response)", is_answer=True),
    _rule(r"gcp\.vertex\.agent\.tool_(?:call_args|response)", is_answer=True),
    _rule(r"output\.value", r"traceloop\.entity\.output", is_answer=True, is_whole=True),
    _rule(r"response_data", r"gcp\.vertex\.agent\.llm_response", is_answer=True, is_whole=True),
    _rule(r"langfuse\.trace\.output", is_answer=True, is_whole=True),
)  # fmt: skip
_EVENTS = re.compile(
    r"gen_ai\.(?:(?P<role>system|user|assistant|tool)\.message|choice|client\.inference\.operation\.details"
    r"|content\.(?:prompt|completion))"
)
_OF_EVENTS = frozenset({"content", "message", "body", "tool_calls", "arguments"})

_LONGEST_NAME = 256
_ROLES = ("role", "message.role")
_TEXTS = ("content", "message.content")
_NOT_SAID = ("finish_reason", "message.finish_reason")
_SYSTEM = {"gen_ai.system_instructions": "system"}


class _Place(NamedTuple):
    """Where an attribute belongs: its rule's rank, its family's name, and which field of which message it is."""

    rank: int
    family: str
    number: int
    field: str  # empty: the attribute by itself


def read(body: bytes, *, content_type: str) -> Iterator[SpanContent]:
    """The content of each span that carries any, of a body that otlp.decode_traces takes."""
    if content_type.partition(";")[0].strip().lower() == otlp.JSON:
        body = otlp._from_json(ExportTraceServiceRequest, body).SerializeToString()
    for resource_spans in wire.ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for bare in scope_spans.spans:
                try:
                    span = Span.FromString(bare)
                except DecodeError:
                    continue  # refused, and counted as such, where observations are read
                if parts := parts_of(span):
                    yield SpanContent(span.trace_id, span.span_id, span.start_time_unix_nano, parts)


def parts_of(span: Span) -> tuple[Part, ...]:
    """What a span says of prompts and answers: in its attributes, then in its events."""
    sources = list(_sources(span.attributes))
    for event in span.events:
        sources += [_event_parts(event), *_sources(event.attributes)]
    found: list[Part] = []
    texts: set[str] = set()
    for source in sources:
        # Libraries say the same under old names and new; a message that is said twice in one place stays.
        if not {part.text for part in source} <= texts:
            found += source
            texts.update(part.text for part in source)
    return tuple(found)


# Which attributes


@lru_cache(maxsize=4096)
def _place_of(name: str) -> _Place | None:
    for rank, rule in enumerate(RULES):
        match = rule.names.fullmatch(name)
        if match is None:
            continue
        groups = match.groupdict()
        if groups.get("index") is None:
            return _Place(rank, name, 0, "")
        return _Place(rank, name[: match.start("index") - 1], int(groups["index"]), groups["field"])
    return None


def _sources(attributes: Iterable[KeyValue]) -> Iterator[list[Part]]:
    """The parts of each attribute, or of each family of them that makes up messages, in the order of RULES."""
    families: dict[tuple[int, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for pair in attributes:
        place = _place_of(pair.key) if len(pair.key) <= _LONGEST_NAME else None
        value = _plain(pair.value) if place else None
        if place and value not in (None, "", [], {}):
            messages = families[place.rank, place.family]
            messages.setdefault(place.number, {})[place.field] = value
    has_messages = {RULES[rank].is_answer for rank, _ in families if not RULES[rank].is_whole}
    for (rank, family), messages in sorted(families.items(), key=lambda one: one[0]):
        if not RULES[rank].is_whole or RULES[rank].is_answer not in has_messages:
            yield _family_parts(family, messages)


def _family_parts(family: str, messages: Mapping[int, dict[str, Any]]) -> list[Part]:
    if "" in messages.get(0, {}):
        return list(_parts_in(_SYSTEM.get(family, family), messages[0][""]))
    return [_flattened(f"{family}.{index}", messages[index]) for index in sorted(messages)]


def _flattened(name: str, fields: dict[str, Any]) -> Part:
    """A message whose fields are attributes of their own: gen_ai.prompt.0.role, gen_ai.prompt.0.content, …"""
    role = next((fields[one] for one in _ROLES if isinstance(fields.get(one), str)), name)
    texts = [_text(fields[one]) for one in _TEXTS if one in fields]
    known = {*_ROLES, *_TEXTS, *_NOT_SAID}
    texts += [_field(one, fields[one]) for one in sorted(fields, key=_natural) if one not in known]
    return Part(role, "\n".join(texts))


def _field(name: str, value: Any) -> str:
    is_text = name.endswith((".text", ".content"))
    return _text(value) if is_text else f"{name}: {_text(value)}"


def _natural(name: str) -> list[tuple[int, str]]:
    """So that contents.10 comes after contents.9."""
    return [
        (int(word), "") if word.isdecimal() and len(word) < 7 else (0, word)
        for word in name.split(".")
    ]


def _event_parts(event: Span.Event) -> list[Part]:
    named = _EVENTS.fullmatch(event.name)
    if named is None:
        return []
    said = {pair.key: _plain(pair.value) for pair in event.attributes}
    role = said.get("role") or named["role"] or event.name
    parts: list[Part] = []
    for name in sorted(_OF_EVENTS & said.keys()):
        if said[name] not in (None, "", [], {}):
            parts += _parts_in(str(role), said[name])
    return parts


# Values


def _plain(value: AnyValue) -> Any:
    """The Python value of an attribute, maps included; of bytes only how many. Protobuf bounds the nesting."""
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_plain(item) for item in value.array_value.values]
    if which == "kvlist_value":
        return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
    if which == "bytes_value":
        return f"({len(value.bytes_value)} bytes)"
    return None if which is None else getattr(value, which)


def _parts_in(name: str, value: Any) -> Iterator[Part]:
    """The messages that a value consists of, each by its role; else the value, under its name."""
    meant = _parsed(value) if isinstance(value, str) else value
    if _is_message(meant):
        meant = [meant]
    if isinstance(meant, list) and meant and all(_is_message(one) for one in meant):
        for message in meant:
            yield Part(message["role"], _message_text(message))
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        for one in value:
            yield Part(name, one)
    elif isinstance(meant, list) and meant and all(_is_piece(one) for one in meant):
        yield Part(name, _text(meant))
    else:
        yield Part(name, _text(value))


def _parsed(text: str) -> Any:
    """What stands in a text of JSON; None where it is none."""
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)


def _is_piece(value: Any) -> bool:
    """A piece of a message's content, such as {"type": "text", "text": "…"}."""
    return isinstance(value, dict) and any(
        isinstance(value.get(k), str) for k in ("text", "content")
    )


def _message_text(message: dict[str, Any]) -> str:
    texts = [_text(message[name]) for name in ("content", "parts") if message.get(name)]
    rest = {
        name: value
        for name, value in message.items()
        if value and name not in ("role", "content", "parts", "finish_reason")
    }
    return "\n".join([*texts, _as_json(rest)] if rest else texts)


def _text(value: Any) -> str:
    """Text as it is, pieces of a message one below the other, everything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and any(_is_piece(one) for one in value):
        return "\n".join(_piece(one) for one in value)
    return _as_json(value)


def _piece(value: Any) -> str:
    if _is_piece(value) and set(value) <= {"type", "text", "content"}:
        return "\n".join(v for k, v in value.items() if k != "type" and isinstance(v, str))
    return value if isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply)"
