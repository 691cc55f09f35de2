"""Keyed hashes of what is asked: by them repetition and shared prefixes are measured without the text.

The prompt's text is written in one order: tools, system, messages, as providers cache it. At each of BOUNDARIES, which are
bytes of it, stands a hash of all before: who shares i hashes with another shares that prefix. The request's hash is of the
whole prompt and of every other parameter that the answer depends on.

Nobody without the key can tell what was hashed, nor try what it might have been.
"""

import json
import re
from base64 import urlsafe_b64encode
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from collectors import semconv

Fingerprint = dict[str, str | int | bool]

# Three in each doubling, from about 256 tokens to about 320,000; who knows a position knows them all.
BOUNDARIES = tuple((1024 << i // 3) * (4 + i % 3) // 4 for i in range(32))
PREFIX_HASH_CHARACTERS = 8

_DIGEST_BYTES = 8
_PREFIX_DIGEST_BYTES = 6  # 8 characters; two of a million prefixes are alike in one case of 500
_PERSON = b"cw-fingerprints"
_OFF = ("0", "no", "false", "off")

_PROMPT = (
    "tools", "functions", "system", "systemInstruction", "system_instruction", "instructions",
    "messages", "contents", "input", "prompt",
)  # fmt: skip
# What changes the way of the answer, its price or its bookkeeping, but not the answer.
_WITHOUT_EFFECT = frozenset(
    {
        "stream", "stream_options", "user", "metadata", "labels", "store", "background", "service_tier",
        "prompt_cache_key", "prompt_cache_retention", "cache_control", "safety_identifier", "request_id",
        "priority", "encoding_format",
    }
)  # fmt: skip
_INNER = ("text", "content", "parts")  # the text of a message, or of a part of one
_NESTED = (str, dict, list)
_TEXT_TYPES = ("text", "input_text", "output_text")
_NOT_IN_HEAD = {*_INNER, "cache_control"}

# Bytes that UTF-8 never has, so that no text can look like another structure.
_FIELD, _TEXT, _JSON, _OPEN, _CLOSE, _REST = (b"\xff" + mark for mark in (b"#", b'"', b"=", b"{", b"}", b"&"))  # fmt: skip
_BLOB = re.compile(rb'"(?:data|file_data)":"|;base64,')
_SHORT_BYTES = 4096  # no image


def _json_encoder() -> Callable[[object], str]:
    """A json.JSONEncoder's encode(), which makes a new C encoder each time, at ten times the cost of using one."""
    encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    texts = json.encoder.encode_basestring
    into = make(None, encoder.default, texts, None, ":", ",", True, False, True)
    return lambda said: "".join(into(said, 0))


_encode_json = _json_encoder()


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Makes fingerprints with one key; only those of the same key compare."""

    key: bytes = field(repr=False)

    def of(self, asked: Mapping[str, Any], operation: str, model: str = "") -> Fingerprint:
        """Span attributes of one request's body.

        model   where the path says it and not the body

        Raises TypeError or ValueError where the body could not have been JSON.
        """
        prompt = _prompt(asked)
        running = blake2b(key=self.key, digest_size=_DIGEST_BYTES)
        prefixes, begin, whole = [], 0, memoryview(prompt)
        for end in BOUNDARIES[: bisect_right(BOUNDARIES, len(prompt))]:
            running.update(whole[begin:end])
            prefixes.append(running.digest()[:_PREFIX_DIGEST_BYTES])
            begin = end
        running.update(whole[begin:])
        running.update(_REST + _json(_rest(asked, operation, model)))
        found: Fingerprint = {
            semconv.REQUEST_HASH: running.hexdigest(),
            semconv.PROMPT_BYTES: len(prompt),
            semconv.REQUEST_DETERMINISTIC: operation == "embeddings" or _is_greedy(asked),
        }
        if operation != "embeddings" and prefixes:
            found[semconv.PREFIX_HASHES] = urlsafe_b64encode(b"".join(prefixes)).decode()
        return found


def from_environment(environ: Mapping[str, str], ingest_key: str) -> Fingerprints | None:
    """With COSTWATCH_FINGERPRINT_KEY, else with the ingest key; None: switched off, or no key at all."""
    if environ.get("COSTWATCH_FINGERPRINTS", "").lower() in _OFF:
        return None
    # A file's last line end is in one service's variable and not in another's.
    secret = environ.get("COSTWATCH_FINGERPRINT_KEY", "").strip() or ingest_key
    if not secret:
        return None
    bits = secret.encode("utf-8", "surrogatepass")
    return Fingerprints(blake2b(bits, digest_size=32, person=_PERSON).digest())


def _rest(asked: Mapping[str, Any], operation: str, model: str) -> dict[str, Any]:
    """What the answer depends on besides the prompt."""
    rest = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in asked.items()
        if value is not None and name not in _WITHOUT_EFFECT and name not in _PROMPT
    }
    return {"model": model, **rest, "operation": operation}


def _is_greedy(asked: Mapping[str, Any]) -> bool:
    settings = asked.get("generationConfig") or asked.get("generation_config")  # Google's
    said = settings if isinstance(settings, Mapping) else asked
    return said.get("temperature") == 0 and said.get("temperature") is not False


# The prompt's text


def _prompt(asked: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    for name in _PROMPT:
        said = asked.get(name)
        if said is not None:
            pieces.append(_FIELD + name.encode())
            _add(said, pieces)
    return b"".join(pieces)


def _add(said: object, pieces: list[bytes]) -> None:
    """One value's pieces. A text, and a list that holds it alone, are the same."""
    if isinstance(said, str):
        pieces += (_TEXT, said.encode("utf-8", "surrogatepass"))
    elif isinstance(said, Mapping):
        _add_object(said, pieces)
    elif isinstance(said, list | tuple) and said and isinstance(said[0], _NESTED):
        for each in said:
            _add(each, pieces)
    elif said is not None:  # tokens, mostly
        pieces.append(_JSON + _json(said))


def _add_object(said: Mapping[str, Any], pieces: list[bytes]) -> None:
    """A message, a part of one, or a tool. A part that has nothing but a text is that text."""
    role, content = said.get("role"), said.get("content")
    if len(said) == 2 and isinstance(role, str) and isinstance(content, str):  # most messages
        pieces += (_head_of(role), _TEXT, content.encode("utf-8", "surrogatepass"), _CLOSE)
        return
    head = {name: value for name, value in said.items() if name not in _NOT_IN_HEAD}
    if "text" in said and head.get("type") in _TEXT_TYPES:
        del head["type"]
    if head:
        is_usual = len(head) == 1 and isinstance(role, str)
        pieces.append(_head_of(role) if is_usual else _OPEN + _head(head))
    for name in _INNER:
        if name in said:
            _add(said[name], pieces)
    if head:
        pieces.append(_CLOSE)


@lru_cache(maxsize=64)
def _head_of(role: str) -> bytes:
    return _OPEN + _head({"role": role})


def _head(head: Mapping[str, Any]) -> bytes:
    """An image or a file counts by its hash alone: its bytes are not its tokens."""
    encoded = _json(head)
    if len(encoded) > _SHORT_BYTES and _BLOB.search(encoded):
        return blake2b(encoded, digest_size=16).hexdigest().encode()
    return encoded


def _json(said: object) -> bytes:
    return _encode_json(said).encode("utf-8", "surrogatepass")
