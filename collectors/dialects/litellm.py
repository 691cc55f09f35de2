"""LiteLLM's OpenTelemetry callback, in the SDK and in the proxy.

    litellm_request       the call, with LiteLLM's counts; where they went apart in detail, `metadata.usage_object`
                          has them as Python wrote them
    raw_gen_ai_request    its child: the provider's request and answer under `llm.<provider>.<field>`. By default the
                          proxy sends no litellm_request; then the usage stands only here, and what was asked on
                          the span of the proxy's request

LiteLLM draws an id of its own for every answer that brings none in OpenAI's shape, and packs the Responses API's into one.
"""

import base64
import binascii
import re
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.dialects.objects import any_object
from collectors.dialects.provider_usage import counts_of
from collectors.dialects.table import (
    LOCAL_ID,
    PARAMETERS,
    PROVIDER_AND_MODEL,
    RAW_USAGE,
    ROUTE,
    USAGE,
)
from collectors.dialects.urls import host_of
from collectors.dialects.values import text
from collectors.observation import Vantage

RAW_DIALECT = "litellm_raw"
_OPERATIONS = {
    "completion": "chat",
    "responses": "chat",
    "anthropic_messages": "chat",
    "text_completion": "text_completion",
    "embedding": "embeddings",
    "rerank": "rerank",
}
_API_BASE = re.compile(r'"api_base": ?"([^"\\]{1,256})"')
PACKED_ID = "resp_bGl0ZWxsbTp"  # "resp_" and "litellm:" in base64, as far as it is always the same
_ID_INSIDE = re.compile(r"response_id:([\w.-]+)")
_UNKNOWN = frozenset({"None", "Unknown"})


def complete(found: dict[str, Any], span: Span) -> None:
    """Fill in what LiteLLM keeps in texts."""
    if RAW_USAGE in found:
        _read_raw(found, span)
    else:
        found.update(counts_of(any_object(found.get(USAGE))))
    if ROUTE in found:
        found["vantage"] = Vantage.GATEWAY
    if found.get("response_id") == found.get(LOCAL_ID):
        found.pop("response_id", None)
    operation = found.get("operation", "")
    # Its asynchronous functions have an "a" before their names.
    for name in (operation, operation[1:] if operation.startswith("a") else ""):
        if name in _OPERATIONS:
            found["operation"] = _OPERATIONS[name]
    provider, slash, _ = found.get(PROVIDER_AND_MODEL, "").partition("/")
    if slash:
        found.setdefault("provider", provider)
    base = _API_BASE.search(found.get(PARAMETERS, ""))
    if base is not None:
        found.setdefault("server_address", host_of(base[1]))


def _read_raw(found: dict[str, Any], span: Span) -> None:
    """Provider, id and model stand beside the usage, in attributes that the provider's name is a part of."""
    found.update(counts_of(any_object(found[RAW_USAGE])))
    found["dialect"] = RAW_DIALECT
    fields: dict[str, str | None] = {}
    for pair in span.attributes:
        prefix, _, rest = pair.key.partition(".")
        provider, _, field = rest.rpartition(".")
        if prefix == "llm" and field in ("usage", "usageMetadata", "id", "responseId", "model"):
            fields[field] = text(pair.value)
            if provider not in _UNKNOWN:
                found.setdefault("provider", provider)
    said = fields.get("id") or fields.get("responseId")
    if said:
        found.setdefault("response_id", said)
    if fields.get("model"):
        found.setdefault("response_model", fields["model"])


def unpacked(response_id: str) -> str:
    """The provider's id in one of LiteLLM's for the Responses API; the id itself where it holds none."""
    packed = response_id.removeprefix("resp_")
    try:
        said = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return response_id
    inside = _ID_INSIDE.search(said.decode("ascii", "replace"))
    return inside[1] if inside else response_id
