"""What one span says about one call, whatever dialect it was written in.

Observation    a span that saw an inference call, or wraps one
SpanLink       which span is whose child; every span has one, so that wrappers are recognised
DeviceTime     one point of a device's time by state
TokenPoint     one point of a metric that counts tokens or calls
Decoded        all that a body of telemetry held
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collectors.dialects.sheets import Sheet


class Vantage(StrEnum):
    """From where a call was seen. A call may be seen from all four; it is counted once."""

    CLIENT = "client"  # around the provider's client library
    FRAMEWORK = (
        "framework"  # a framework's model span around the client (LangChain, pydantic-ai, …)
    )
    GATEWAY = "gateway"  # a proxy between client and server
    SERVER = "server"  # the runtime that computed it


class Provenance(StrEnum):
    """How the token counts were come by."""

    REPORTED = "reported"  # counted by the provider or runtime
    ESTIMATED = "estimated"  # counted by somebody else's tokenizer
    ABSENT = "absent"  # nobody said; the counts are None, which is not zero


# Not frozen, nor are the next ones: Python sets a frozen object's fields through a function call each, which costs more
# than decoding them. Nobody changes one.
@dataclass(slots=True)
class Usage:
    """Token counts on disjoint meters; None is unknown.

    input_tokens excludes what was read from or written to a cache. reasoning_output_tokens is a part of
    output_tokens, never added to it.
    """

    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Tags:
    """Who is said to pay, and for what, by one span or one resource itself.

    The most specific wins: the call's own spans, their nearest ancestor, the resource. Ancestors may come in another
    body, before or after, so who pays is worked out where all of them are known.
    """

    team: str | None = None
    feature: str | None = None
    customer: str | None = None
    user: str | None = None
    session: str | None = None


@dataclass(slots=True, kw_only=True)
class Observation:
    """One span about one call. Times are nanoseconds; ids are the raw bytes of OTLP (16 and 8)."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None
    start_unix_ns: int
    end_unix_ns: int
    dialect: (
        str  # which row of the table recognised it: "otel_genai", "openinference", "openllmetry", …
    )
    vantage: Vantage
    is_wrapper: bool = (
        False  # repeats or sums its children's usage: an agent, chain or workflow span
    )
    service_name: str = ""
    environment: str = ""
    tags: Tags = field(default_factory=Tags)
    resource_tags: Tags = field(default_factory=Tags)
    operation: str = ""  # chat, text_completion, embeddings, …
    provider: str = ""
    request_model: str = ""
    response_model: str = ""
    response_id: str = ""
    service_tier: str = ""
    server_address: str = ""
    streaming: bool | None = None
    error_type: str = ""  # empty: it went well
    usage: Usage = field(default_factory=Usage)
    provenance: Provenance = Provenance.ABSENT
    contradiction: str = (
        ""  # why the span cannot be right as it stands; the call is kept and marked
    )
    time_to_first_token_ns: int | None = None
    time_per_output_token_ns: int | None = None
    queue_ns: int | None = None
    prefill_ns: int | None = None
    decode_ns: int | None = None
    device_ns: int | None = None
    device_ns_marginal: int | None = None
    device_ns_alone: int | None = None
    energy_uj: int | None = None
    device_type: str = ""
    device_ids: str = ""  # of all devices that the runtime computes on, apart by spaces
    allocation_method: str = ""
    prefix_repeated_tokens: int | None = None
    request_repeated: bool | None = None
    request_hash: str = ""  # of fingerprints.py, as are the next ones
    prefix_hashes: str = ""
    prompt_bytes: int | None = None
    request_deterministic: bool | None = None


@dataclass(slots=True)
class SpanLink:
    """A span, its parent (None: a root), and the tags that it hands down."""

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None
    start_unix_ns: int
    tags: Tags = field(default_factory=Tags)


def link_of(seen: Observation) -> SpanLink:
    """The link of a span that is an observation."""
    return SpanLink(seen.trace_id, seen.span_id, seen.parent_span_id, seen.start_unix_ns, seen.tags)


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """One cumulative point: how long a device was in a state from start_unix_ns to time_unix_ns."""

    service_name: str
    instance_id: str
    device_id: str
    device_type: str
    state: str  # semconv.DEVICE_STATE_*
    start_unix_ns: int
    time_unix_ns: int
    value_ns: int


class Meter(StrEnum):
    """What a metric counts. cache_read and cache_write are parts of input, reasoning is a part of output."""

    INPUT = "input"
    OUTPUT = "output"
    CACHE_READ = "cache_read"
    CACHE_WRITE = "cache_write"
    REASONING = "reasoning"
    CALLS = "calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPoint:
    """What one series of a metric has counted from start_unix_ns to time_unix_ns.

    A cumulative series that begins anew has another start; start_unix_ns 0: nobody said when it began.
    """

    series: bytes  # 16 bytes, from all that tells it from other series: resource, scope, name, attributes
    is_cumulative: bool
    start_unix_ns: int
    time_unix_ns: int
    meter: Meter
    tokens: int = 0
    calls: int = 0  # 0 too where the metric does not count calls
    scope: str = ""
    family: str = ""  # metrics of one scope and family do not repeat each other
    vantage: Vantage = Vantage.CLIENT
    service_name: str = ""
    environment: str = ""
    instance_id: str = ""
    tags: Tags = field(default_factory=Tags)
    resource_tags: Tags = field(default_factory=Tags)
    provider: str = ""
    request_model: str = ""
    response_model: str = ""
    service_tier: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why some items of a body were not taken: goes into OTLP's partial success, and into ingest health."""

    reason: str
    count: int


@dataclass(slots=True)
class Decoded:
    """All that one body of telemetry held, in the order of the body."""

    observations: list[Observation] = field(default_factory=list)
    links: list[SpanLink] = field(default_factory=list)
    device_times: list[DeviceTime] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    items: int = 0  # spans or points in the body, whether or not they were about a call
    token_points: list[TokenPoint] = field(default_factory=list)
    sheets: Sequence[Sheet] = ()  # observations that look alike, in columns
