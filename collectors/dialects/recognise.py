"""One span → what it says about a call, or nothing where it is about none."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors import semconv
from collectors.dialects import (
    langfuse,
    litellm,
    logfire,
    openinference,
    openllmetry,
    otel_genai,
    pydantic_ai,
    table,
    tgi,
    vercel,
    vllm,
)
from collectors.dialects.attributes import Found
from collectors.dialects.scopes import SCOPES, Scope
from collectors.dialects.usage import NOTHING, Counts, Metered, metered
from collectors.dialects.values import text
from collectors.observation import Observation, Provenance, SpanLink, Tags, Vantage

_UNKNOWN_SCOPE = Scope("", "")
_TGI_SCOPE = Scope("", "tgi", Vantage.SERVER)
_OWN_SCOPE = Scope("", "costwatch", Vantage.SERVER)


class _Kind(NamedTuple):
    """What a convention's own kind of span says: whose it is, and whether it is a call."""

    dialect: str
    is_call: bool


_KINDS: Mapping[str, _Kind] = {
    **dict.fromkeys(langfuse.WRAPPER_KINDS, _Kind("langfuse", False)),
    **dict.fromkeys(langfuse.OPERATIONS, _Kind("langfuse", True)),
    **dict.fromkeys(vercel.WRAPPER_KINDS, _Kind("vercel", False)),
    **dict.fromkeys(vercel.OPERATIONS, _Kind("vercel", True)),
    **dict.fromkeys(openinference.WRAPPER_KINDS, _Kind("openinference", False)),
    **dict.fromkeys(openinference.OPERATIONS, _Kind("openinference", True)),
    **dict.fromkeys(openllmetry.WRAPPER_KINDS, _Kind("openllmetry", False)),
}
# What only the dialect's own file can read.
_COMPLETE: Mapping[str, Callable[[dict[str, Any], Span], None]] = {
    "langfuse": langfuse.complete,
    "litellm": litellm.complete,
    "logfire": logfire.complete,
    "openinference": openinference.complete,
    "pydantic_ai": pydantic_ai.complete,
    "tgi": tgi.complete,
    "vercel": vercel.complete,
    "vllm": vllm.complete,
}
# In the order of Counts.
COUNTS = (
    table.INPUT,
    table.OUTPUT,
    table.TOTAL,
    table.CACHE_READ,
    table.CACHE_WRITE,
    table.REASONING,
)
# What the table reads and an Observation has no field for.
_WORKED_IN = frozenset(
    meaning for meaning, _, _ in table.NAMES if meaning not in Observation.__dataclass_fields__
)


@lru_cache(maxsize=1024)
def scope_of(name: str) -> Scope:
    """The row for an instrumentation scope: the longest name that it begins with; an unknown one has no dialect."""
    fitting = [
        scope
        for scope in SCOPES
        if name == scope.name or (not scope.whole and name.startswith(scope.name))
    ]
    return max(fitting, key=lambda scope: len(scope.name), default=_UNKNOWN_SCOPE)


def is_plain(dialect: str) -> bool:
    """Whether attributes alone say all that a dialect says, name by name: no texts to look into."""
    return dialect not in _COMPLETE


def is_about_a_call(found: Found, resource: Found) -> bool | None:
    """True: an inference call. False: a span that wraps some and repeats their usage. None: neither."""
    if tgi.is_request(found):
        return True if tgi.is_paid_by_time(found, resource) else None
    kind = _KINDS.get(found.get(table.KIND, ""))
    if kind.is_call if kind is not None else otel_genai.is_call(found):
        return True
    return False if table.INPUT in found or table.OUTPUT in found else None


def observe(
    span: Span,
    link: SpanLink,
    found: Found,
    scope: Scope,
    *,
    is_wrapper: bool,
    resource: Found,
    resource_tags: Tags,
) -> Observation:
    """The observation of a span that is about a call. `found` is used up."""
    scope = speaker_of(span, found, scope)
    dialect, vantage, start_unix_ns = scope.dialect, scope.vantage, link.start_unix_ns
    complete = _COMPLETE.get(dialect)
    if complete is not None:
        complete(found, span)
        dialect, vantage = found.pop("dialect", dialect), found.pop("vantage", vantage)
        is_wrapper = found.pop("is_wrapper", is_wrapper)
        start_unix_ns = found.pop("start_unix_ns", start_unix_ns)
    otel_genai.complete(found)
    if span.status.code == Status.STATUS_CODE_ERROR and "error_type" not in found:
        found["error_type"] = _exception_type(span)
    counts = Counts(*(found.pop(meaning, None) for meaning in COUNTS))
    meters = meters_of(counts, scope, is_stream=bool(found.get("streaming")))
    if not _WORKED_IN.isdisjoint(found):
        for meaning in _WORKED_IN & found.keys():
            del found[meaning]
    if found.get("streaming") is False and vantage is not Vantage.SERVER:
        # OpenLIT gives the whole duration as the time to the first token of an answer that came at once. A runtime
        # knows when it had the first one, whether or not it sent it by itself.
        found.pop("time_to_first_token_ns", None)
        found.pop("time_per_output_token_ns", None)
    return Observation(
        trace_id=link.trace_id,
        span_id=link.span_id,
        parent_span_id=link.parent_span_id,
        start_unix_ns=start_unix_ns,
        end_unix_ns=span.end_time_unix_nano,
        dialect=dialect,
        vantage=vantage,
        is_wrapper=is_wrapper,
        tags=link.tags,
        resource_tags=resource_tags,
        usage=meters.usage,
        provenance=meters.provenance,
        contradiction=meters.contradiction,
        **(resource | found),
    )


def speaker_of(span: Span, found: Found, scope: Scope) -> Scope:
    """Who speaks, by the scope, or by what only one dialect says where the scope is nobody's that we know."""
    if "device_ns" in found or found.get("provider") == semconv.PROVIDER_COSTWATCH:
        return _OWN_SCOPE
    if tgi.is_request(found):
        return _TGI_SCOPE
    if scope.dialect:
        return scope
    kind = _KINDS.get(found.get(table.KIND, ""))
    dialect = kind.dialect if kind is not None else "otel_genai"
    if table.LOCAL_ID in found or table.RAW_USAGE in found:
        dialect = "litellm"
    vantage = Vantage.SERVER if span.kind == Span.SPAN_KIND_SERVER else Vantage.CLIENT
    return Scope("", dialect, vantage)


def meters_of(counts: Counts, scope: Scope, *, is_stream: bool) -> Metered:
    """What a span's counts mean, given who says them."""
    if counts.input is None and counts.output is None:
        return NOTHING
    meters = metered(counts, input_excludes_cache=scope.input_excludes_cache)
    reported = meters.provenance is Provenance.REPORTED
    if reported and is_stream and _is_estimated(counts, scope):
        return meters._replace(provenance=Provenance.ESTIMATED)
    return meters


def _is_estimated(counts: Counts, scope: Scope) -> bool:
    """Whether a stream's counts are the library's own."""
    if scope.stream_output_is_estimated:
        return True
    names_cache = counts.cache_read is not None or counts.cache_write is not None
    return scope.stream_without_cache_is_estimated and not names_cache


def _exception_type(span: Span) -> str:
    """What went wrong in a span that says only that something did."""
    for event in span.events:
        for pair in event.attributes:
            if pair.key == "exception.type":
                return text(pair.value) or "error"
    return "error"
