"""One span about one call: what is on it.

CallRecord      what the server knows of a call that is over
attributes_of   the span's attributes
caller_of       who called, from the headers: the parent span, and who pays
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_plus

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from collectors import semconv
from serving.engine.request import Finished
from serving.server.parameters import Options

Attribute = str | bool | int | float | tuple[str, ...]

_WHO_PAYS = (semconv.TEAM, semconv.FEATURE, semconv.CUSTOMER)
MEASURED = "measured"
SHARED = "shared"  # measured on a GPU that other programs used, ours by the driver's count


class Asked(Protocol):
    """What a well-formed request says, whichever endpoint it came in by."""

    @property
    def model(self) -> str: ...
    @property
    def options(self) -> Options: ...


@dataclass(frozen=True, slots=True)
class Device:
    """What computes. id is unique among hosts; type is what has a price: "cpu", "NVIDIA H100 80GB HBM3"."""

    id: str
    type: str
    hw_type: str  # "cpu" or "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A call that is over, however it went. finished has one entry per prompt that the engine took."""

    operation: str
    headers: Mapping[str, str]
    arrived_unix_ns: int
    duration_ns: int
    asked: Asked | None  # None: the body could not be read
    response_id: str
    response_model: str
    prompt_tokens: int
    finished: tuple[Finished, ...]
    error_type: str  # empty: it went well
    error_message: str

    @property
    def name(self) -> str:
        return f"{self.operation} {self.asked.model}" if self.asked else self.operation


def caller_of(headers: Mapping[str, str]) -> tuple[Context, dict[str, Attribute]]:
    """The context with the caller's span, and who pays as the caller's baggage says."""
    context = TraceContextTextMapPropagator().extract(headers, context=Context())
    carried = _baggage(headers.get("baggage", ""))
    return context, {name: carried[name] for name in _WHO_PAYS if carried.get(name)}


def _baggage(header: str) -> dict[str, str]:
    """name → value, without the properties, which OpenTelemetry's own reader leaves at the end of the value."""
    members = (member.partition(";")[0].partition("=") for member in header.split(","))
    return {unquote_plus(name).strip(): unquote_plus(value).strip() for name, _, value in members}


def attributes_of(call: CallRecord, device: Device) -> dict[str, Attribute]:
    """What is not known is not there: a refused request has no tokens, which is not zero tokens."""
    known: dict[str, Attribute | None] = {
        semconv.OPERATION_NAME: call.operation,
        semconv.PROVIDER_NAME: semconv.PROVIDER_COSTWATCH,
        semconv.ERROR_TYPE: call.error_type or None,
        **_asked(call.asked),
    }
    if call.finished:
        known |= _answered(call) | _timings(call) | _costs(call, device)
    return {name: value for name, value in known.items() if value is not None}


def _asked(asked: Asked | None) -> dict[str, Attribute | None]:
    if asked is None:
        return {}
    return {
        semconv.REQUEST_MODEL: asked.model,
        semconv.REQUEST_STREAM: asked.options.stream,
        semconv.REQUEST_MAX_TOKENS: asked.options.max_tokens,
        semconv.REQUEST_TEMPERATURE: asked.options.temperature,
        semconv.REQUEST_TOP_P: asked.options.top_p,
    }


def _answered(call: CallRecord) -> dict[str, Attribute | None]:
    return {
        semconv.RESPONSE_ID: call.response_id,
        semconv.RESPONSE_MODEL: call.response_model,
        semconv.RESPONSE_FINISH_REASONS: tuple(str(each.reason) for each in call.finished),
        semconv.USAGE_INPUT_TOKENS: call.prompt_tokens,
        semconv.USAGE_CACHE_READ_INPUT_TOKENS: sum(each.cached_tokens for each in call.finished),
        semconv.USAGE_OUTPUT_TOKENS: sum(each.output_tokens for each in call.finished),
    }


def _timings(call: CallRecord) -> dict[str, Attribute | None]:
    """Of a call with several prompts: until the first of them was begun, and had its first token."""
    arrived_ns = min(each.arrived_ns for each in call.finished)
    ended_ns = max(each.finished_ns for each in call.finished)
    scheduled_ns = min(
        (each.scheduled_ns for each in call.finished if each.scheduled_ns is not None), default=None
    )
    first_token_ns = min(
        (each.first_token_ns for each in call.finished if each.first_token_ns is not None),
        default=None,
    )
    return {
        semconv.QUEUE_NS: _between(arrived_ns, scheduled_ns),
        semconv.PREFILL_NS: _between(scheduled_ns, first_token_ns),
        semconv.DECODE_NS: _between(first_token_ns, ended_ns),
        semconv.TIME_TO_FIRST_TOKEN_NS: _between(arrived_ns, first_token_ns),
        semconv.TIME_PER_OUTPUT_TOKEN_NS: _time_per_output_token_ns(call.finished),
    }


def _between(start_ns: int | None, end_ns: int | None) -> int | None:
    return None if start_ns is None or end_ns is None else end_ns - start_ns


def _time_per_output_token_ns(finished: tuple[Finished, ...]) -> int | None:
    """Over all answers, the first token of each left out; None where none has a second."""
    streams = [
        (each.finished_ns - each.first_token_ns, each.output_tokens - 1)
        for each in finished
        if each.first_token_ns is not None and each.output_tokens > 1
    ]
    tokens = sum(tokens for _, tokens in streams)
    return sum(took_ns for took_ns, _ in streams) // tokens if tokens else None


def _costs(call: CallRecord, device: Device) -> dict[str, Attribute | None]:
    return {
        semconv.DEVICE_NS: sum(each.device_ns for each in call.finished),
        semconv.DEVICE_NS_MARGINAL: sum(each.device_ns_marginal for each in call.finished),
        semconv.DEVICE_NS_ALONE: sum(each.device_ns_alone for each in call.finished),
        semconv.ENERGY_UJ: _energy_uj(call.finished),
        semconv.DEVICE_TYPE: device.type,
        semconv.ALLOCATION_METHOD: _method(call.finished),
        semconv.PREFIX_REPEATED_TOKENS: sum(map(_repeated_and_computed, call.finished)),
        semconv.REQUEST_REPEATED: all(each.request_repeated for each in call.finished),
    }


def _method(finished: tuple[Finished, ...]) -> str:
    return SHARED if any(each.on_shared_device for each in finished) else MEASURED


def _energy_uj(finished: tuple[Finished, ...]) -> int | None:
    known = [each.energy_uj for each in finished if each.energy_uj is not None]
    return sum(known) if known else None


def _repeated_and_computed(finished: Finished) -> int:
    """Leading prompt tokens that a larger prefix cache, or any, would have saved: what was in ours is saved already."""
    return max(finished.prefix_repeated_tokens - finished.cached_tokens, 0)


__all__ = ["CallRecord", "Device", "attributes_of", "caller_of"]
