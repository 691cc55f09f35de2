"""The body of POST /v1/embeddings, and the answer to it."""

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.server import fields
from serving.server.errors import invalid, unsupported
from serving.server.parameters import refuse_what_we_do_not_honour
from serving.server.schemas import is_token_ids, read_model

_READ = frozenset({"dimensions", "encoding_format", "input", "model"})
_FORMATS = ("float", "base64")
_MAX_TEXTS = 2_048  # OpenAI's


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    """What spans tell of other requests, and there is not here."""

    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """texts may be token ids. dimensions None: as many as the model gives."""

    model: str
    texts: tuple[str | tuple[int, ...], ...]
    is_base64: bool = False
    dimensions: int | None = None
    options: EmbeddingOptions = EmbeddingOptions()


def read_embedding(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Raises BadRequest."""
    refuse_what_we_do_not_honour(body, _READ)
    encoding = body.get("encoding_format") or "float"
    if encoding not in _FORMATS:
        raise unsupported("encoding_format", encoding, f"expected {' or '.join(_FORMATS)}")
    return EmbeddingRequest(
        model=read_model(body),
        texts=_read_texts(body.get("input")),
        is_base64=encoding == "base64",
        dimensions=fields.whole(body, "dimensions", at_least=1, at_most=2**20),
    )


def _read_texts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str) or is_token_ids(value):
        return (_read_text(value, "input"),)
    expected = "a text, token ids, or a list of either"
    texts = fields.items(value, "input", expected, at_most=_MAX_TEXTS)
    if not texts:
        raise invalid("input", value, expected)
    return tuple(_read_text(each, f"input[{place}]") for place, each in enumerate(texts))


def _read_text(value: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if not is_token_ids(value):
        raise invalid(where, value, "a text that is not empty, or a list of token ids")
    return tuple(value)


def embeddings_body(
    model: str, vectors: Sequence[Sequence[float]], tokens: int, *, is_base64: bool
) -> dict[str, Any]:
    return {
        "object": "list",
        "model": model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if is_base64 else list(map(float, vector)),
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    """Its floats in 32 bits each, the lowest byte first."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


__all__ = ["EmbeddingOptions", "EmbeddingRequest", "embeddings_body", "read_embedding"]
