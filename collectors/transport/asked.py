"""What a request asks for: its model, and whether it wants a stream; never its content."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARSED_BYTES = 32 * 1024  # longer bodies are searched instead of parsed
_SEARCHED_BYTES = 4 * 1024  # at each end; clients write the model first or last
_MODEL = re.compile(r'"model"\s*:\s*"([^"\\]{1,200})"')
_STREAM = re.compile(r'"stream"\s*:\s*(true|false)')


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one request body. Empty and None: it does not say."""

    model: str = ""
    streaming: bool | None = None


NOTHING = Asked()


def read_request(body: object) -> Asked:
    """What a request's body asks for: bytes, a text, or the object that a client will write as JSON."""
    if isinstance(body, Mapping):
        return _from_object(body)
    if isinstance(body, bytes | bytearray):
        if len(body) > PARSED_BYTES:
            ends = bytes(body[:_SEARCHED_BYTES]) + b"\0" + bytes(body[-_SEARCHED_BYTES:])
            return _from_ends(ends.decode("utf-8", "replace"))
        return _from_text(bytes(body))
    if isinstance(body, str):
        if len(body) > PARSED_BYTES:
            return _from_ends(body[:_SEARCHED_BYTES] + "\0" + body[-_SEARCHED_BYTES:])
        return _from_text(body)
    return NOTHING


def _from_text(text: str | bytes) -> Asked:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return NOTHING
    return _from_object(parsed) if isinstance(parsed, dict) else NOTHING


def _from_object(said: Mapping[Any, Any]) -> Asked:
    model, stream = said.get("model"), said.get("stream")
    return Asked(
        model if isinstance(model, str) else "", stream if isinstance(stream, bool) else None
    )


def _from_ends(text: str) -> Asked:
    model, stream = _MODEL.search(text), _STREAM.search(text)
    return Asked(model[1] if model else "", stream[1] == "true" if stream else None)
