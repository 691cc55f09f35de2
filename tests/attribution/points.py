"""Points of metrics, as decoding gives them."""

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

from collectors.observation import Meter, TokenPoint
from tests.factories import NOON, unix_ns

MINUTE = timedelta(minutes=1)


def token_point(at: datetime, tokens: int = 0, calls: int = 0, **fields: Any) -> TokenPoint:
    """A reading of the input tokens of a client that began at noon; `since` and `minutes` say otherwise."""
    since = fields.pop("since", NOON)
    default = TokenPoint(
        series=b"",
        is_cumulative=True,
        start_unix_ns=unix_ns(since) if since else 0,
        time_unix_ns=unix_ns(at),
        meter=Meter.INPUT,
        tokens=tokens,
        calls=calls,
        scope="opentelemetry.instrumentation.openai_v2",
        family="gen_ai.client.token.usage",
        service_name="shop",
        instance_id="shop-1",
        provider="openai",
        request_model="gpt-4o",
        response_model="gpt-4o-2024-08-06",
    )
    point = replace(default, **fields)
    identity = replace(point, start_unix_ns=0, time_unix_ns=0, tokens=0, calls=0)
    return replace(point, series=blake2b(repr(identity).encode(), digest_size=16).digest())


def delta(start: datetime, end: datetime, tokens: int, calls: int = 0, **fields: Any) -> TokenPoint:
    """What was counted from start to end alone."""
    return token_point(end, tokens, calls, since=start, is_cumulative=False, **fields)
