"""One span → what it says about a call, or nothing where it is about none."""

from functools import lru_cache

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors import semconv
from collectors.dialects import openinference, openllmetry, otel_genai, table
from collectors.dialects.attributes import Found
from collectors.dialects.usage import NOTHING, Counts, Metered, metered
from collectors.dialects.values import text
from collectors.observation import Observation, Provenance, SpanLink, Tags, Vantage

_UNKNOWN_SCOPE = table.Scope("", "")
_OWN_SCOPE = table.Scope("", "costwatch", Vantage.SERVER)
_OF_A_KIND = {
    **dict.fromkeys(openinference.OPERATIONS, True),
    **dict.fromkeys(openinference.WRAPPER_KINDS, False),
    **dict.fromkeys(openllmetry.WRAPPER_KINDS, False),
}
# What the table reads and an Observation has no field for.
_WORKED_IN = (
    table.INPUT,
    table.OUTPUT,
    table.TOTAL,
    table.CACHE_READ,
    table.CACHE_WRITE,
    table.REASONING,
    table.KIND,
    table.API_BASE,
    table.INVOCATION,
    table.ANSWER,
)


@lru_cache(maxsize=1024)
def scope_of(name: str) -> table.Scope:
    """The row for an instrumentation scope: the longest name that it begins with; an unknown one has no dialect."""
    fitting = [scope for scope in table.SCOPES if name.startswith(scope.name)]
    return max(fitting, key=lambda scope: len(scope.name), default=_UNKNOWN_SCOPE)


def is_about_a_call(found: Found) -> bool | None:
    """True: an inference call. False: a span that wraps some and repeats their usage. None: neither."""
    call = _OF_A_KIND.get(found.get(table.KIND, ""))
    if call or (call is None and otel_genai.is_call(found)):
        return True
    return False if table.INPUT in found or table.OUTPUT in found else None


def observe(
    span: Span,
    link: SpanLink,
    found: Found,
    scope: table.Scope,
    *,
    is_wrapper: bool,
    resource: Found,
    resource_tags: Tags,
) -> Observation:
    """The observation of a span that is about a call. `found` is used up."""
    scope = _speaker(span, found, scope)
    if scope.dialect == "openinference":
        openinference.complete(found, span)
    otel_genai.complete(found)
    if span.status.code == Status.STATUS_CODE_ERROR and "error_type" not in found:
        found["error_type"] = _exception_type(span)
    if "provider" in found:
        found["provider"] = found["provider"].lower()
    meters = _meters(found, scope)
    for meaning in _WORKED_IN:
        found.pop(meaning, None)
    if found.get("streaming") is False and scope.vantage is not Vantage.SERVER:
        # OpenLIT gives the whole duration as the time to the first token of an answer that came at once. A runtime
        # knows when it had the first one, whether or not it sent it by itself.
        found.pop("time_to_first_token_ns", None)
    return Observation(
        trace_id=link.trace_id,
        span_id=link.span_id,
        parent_span_id=link.parent_span_id,
        start_unix_ns=link.start_unix_ns,
        end_unix_ns=span.end_time_unix_nano,
        dialect=scope.dialect,
        vantage=scope.vantage,
        is_wrapper=is_wrapper,
        tags=link.tags,
        resource_tags=resource_tags,
        usage=meters.usage,
        provenance=meters.provenance,
        contradiction=meters.contradiction,
        **resource,
        **found,
    )


def _speaker(span: Span, found: Found, scope: table.Scope) -> table.Scope:
    """Who speaks, by the scope, or by what only one dialect says where the scope is nobody's that we know."""
    if "device_ns" in found or found.get("provider") == semconv.PROVIDER_COSTWATCH:
        return _OWN_SCOPE
    if scope.dialect:
        return scope
    kind = found.get(table.KIND)
    vantage = Vantage.SERVER if span.kind == Span.SPAN_KIND_SERVER else Vantage.CLIENT
    if kind in openllmetry.WRAPPER_KINDS:
        return table.Scope("", "openllmetry", vantage)
    return table.Scope("", "openinference" if kind in _OF_A_KIND else "otel_genai", vantage)


def _meters(found: Found, scope: table.Scope) -> Metered:
    counts = Counts(
        found.get(table.INPUT),
        found.get(table.OUTPUT),
        found.get(table.TOTAL),
        found.get(table.CACHE_READ),
        found.get(table.CACHE_WRITE),
        found.get(table.REASONING),
    )
    if counts.input is None and counts.output is None:
        return NOTHING
    meters = metered(counts, input_excludes_cache=scope.input_excludes_cache)
    if scope.stream_output_is_estimated and found.get("streaming"):
        return meters._replace(provenance=Provenance.ESTIMATED)
    return meters


def _exception_type(span: Span) -> str:
    """What went wrong in a span that says only that something did."""
    for event in span.events:
        for pair in event.attributes:
            if pair.key == "exception.type":
                return text(pair.value) or "error"
    return "error"
