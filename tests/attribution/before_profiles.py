"""Telemetry that the service took before migration 0005; what it wrote then is before_profiles.sql.

Sent again today it must change nothing. Made with the service as it was: each body taken, the rollups asked for after
the first ADDED of them, and the tables written down with pg_dump.
"""

from datetime import UTC, datetime, timedelta

from collectors.observation import (
    Decoded,
    Observation,
    Provenance,
    SpanLink,
    Tags,
    Usage,
    Vantage,
)

NOON = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
LONG_ID = "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT"


def _seen(number: int, **fields: object) -> Observation:
    start_ns = int(NOON.timestamp()) * 10**9 + number * 60 * 10**9 + 123_456_789
    said: dict[str, object] = {
        "trace_id": number.to_bytes(16),
        "span_id": number.to_bytes(8),
        "parent_span_id": None,
        "start_unix_ns": start_ns,
        "end_unix_ns": start_ns + 1_500_000_000,
        "dialect": "otel_genai",
        "vantage": Vantage.CLIENT,
        "service_name": "shop",
        "environment": "prod",
        "operation": "chat",
        "provider": "openai",
        "request_model": "gpt-4o",
        "response_model": "gpt-4o-2024-08-06",
        "usage": Usage(input_tokens=100, cache_read_input_tokens=30, output_tokens=20),
        "provenance": Provenance.REPORTED,
    }
    return Observation(**(said | fields))  # type: ignore[arg-type]


def _body(*seen: Observation, links: tuple[SpanLink, ...] = ()) -> Decoded:
    own = [
        SpanLink(one.trace_id, one.span_id, one.parent_span_id, one.start_unix_ns, one.tags)
        for one in seen
    ]
    return Decoded(observations=list(seen), links=[*own, *links], items=len(seen) + len(links))


_CLIENT = _seen(1, response_id=LONG_ID, tags=Tags(team="search", user="ann", session="s-1"))
_SERVER = _seen(
    2,
    response_id=LONG_ID,
    vantage=Vantage.SERVER,
    service_name="runtime",
    provider="in-house",
    start_unix_ns=_CLIENT.start_unix_ns + 1_000_000,
    end_unix_ns=_CLIENT.start_unix_ns + 900_000_000,
    usage=Usage(input_tokens=110, cache_read_input_tokens=20, output_tokens=21),
    device_ns=400_000_000,
    device_type="H100",
    allocation_method="measured",
    queue_ns=7_000,
    time_to_first_token_ns=80_000_000,
)
_CHILD = _seen(3, parent_span_id=b"handler!", resource_tags=Tags(feature="chat"))
_HANDLER = SpanLink(
    _CHILD.trace_id, b"handler!", b"agent!!!", _CHILD.start_unix_ns - 1000, Tags(customer="acme")
)
_AGENT = _seen(
    4,
    trace_id=_CHILD.trace_id,
    span_id=b"agent!!!",
    is_wrapper=True,
    vantage=Vantage.FRAMEWORK,
    start_unix_ns=_CHILD.start_unix_ns - 2000,
)
_FAILED = _seen(
    5, usage=Usage(), provenance=Provenance.ABSENT, error_type="429", tags=Tags(team="search")
)
_GUESSED = _seen(6, provenance=Provenance.ESTIMATED, contradiction="more cached than input tokens")
_NEXT_DAY = _seen(60 * 12, streaming=True)
_NAMELESS = _seen(7, request_model="", response_model="", provider="", environment="")

BODIES = [
    _body(_CLIENT, _CHILD),
    _body(_AGENT, _FAILED),
    _body(_GUESSED, _NEXT_DAY),
    _body(_CLIENT, links=(_HANDLER,)),
    _body(_SERVER, _NAMELESS),
]
ADDED = 3
CALLS = 6
INPUT_TOKENS = 110 + 100 + 100 + 100 + 100  # the server's count of the first
DAYS = [(NOON + timedelta(days=n)).date() for n in (0, 1)]
