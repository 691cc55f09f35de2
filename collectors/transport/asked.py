"""What a request asks for: its model, and whether it wants a stream; never its content."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from collectors.fingerprints import Fingerprint

PARSED_BYTES = 32 * 1024  # longer bodies are searched instead of parsed
FINGERPRINTED_BYTES = 4 * 1024 * 1024  # about a million tokens; longer ones are images and files
_SEARCHED_BYTES = 4 * 1024  # at each end; clients write the model first or last
_MODEL = re.compile(r'"model"\s*:\s*"([^"\\]{1,200})"')
_STREAM = re.compile(r'"stream"\s*:\s*(true|false)')


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one request body. Empty and None: it does not say."""

    model: str = ""
    streaming: bool | None = None
    fingerprint: Fingerprint = field(default_factory=dict, hash=False)  # span attributes


NOTHING = Asked()


def read_request(
    body: object, fingerprint: Callable[[Mapping[str, Any]], Fingerprint] | None = None
) -> Asked:
    """What a request's body asks for: bytes, a text, or the object that a client will write as JSON."""
    if isinstance(body, Mapping):
        said: object = body
    elif isinstance(body, bytes | bytearray | str):
        if len(body) > (PARSED_BYTES if fingerprint is None else FINGERPRINTED_BYTES):
            return _from_ends(body)
        said = _parsed(body)
    else:
        return NOTHING
    if not isinstance(said, Mapping):
        return NOTHING
    model, stream = said.get("model"), said.get("stream")
    return Asked(
        model if isinstance(model, str) else "",
        stream if isinstance(stream, bool) else None,
        {} if fingerprint is None else fingerprint(said),
    )


def _parsed(text: str | bytes | bytearray) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_ends(body: str | bytes | bytearray) -> Asked:
    first, last = body[:_SEARCHED_BYTES], body[-_SEARCHED_BYTES:]
    ends = [
        each if isinstance(each, str) else each.decode("utf-8", "replace") for each in (first, last)
    ]
    text = "\0".join(ends)
    model, stream = _MODEL.search(text), _STREAM.search(text)
    return Asked(model[1] if model else "", stream[1] == "true" if stream else None)
