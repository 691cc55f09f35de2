"""One call from many observations.

A function of the set of observations, not of their order: whatever comes first or late, the call is the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from collectors.observation import Observation, Provenance, Tags, Usage, Vantage
from costwatch.attribution.identity import start_micros

T = TypeVar("T")

# Who sent it, with which tags: the one nearest to the application knows.
_NEAREST_APPLICATION = (Vantage.CLIENT, Vantage.FRAMEWORK, Vantage.GATEWAY, Vantage.SERVER)
# What it ran on and what was counted: the one nearest to the device knows. An instrumented client says "openai"
# whatever server it talks to.
_NEAREST_DEVICE = (Vantage.SERVER, Vantage.GATEWAY, Vantage.CLIENT, Vantage.FRAMEWORK)
# Traceloop's streams of Anthropic count one output token too many, and do not all say that they stream.
_LESS_EXACT = frozenset({"openllmetry"})
_PROVENANCE = (Provenance.REPORTED, Provenance.ESTIMATED, Provenance.ABSENT)


@dataclass(frozen=True, slots=True)
class Seen:
    """An observation as it is kept: with the key that it came with, and whether it wraps another call."""

    observation: Observation
    key_id: int
    span_key: bytes
    wraps: bool


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What makes a Source; the names are its fields."""

    key_id: int
    service_name: str
    environment: str
    team_tag: str
    feature: str
    customer: str


@dataclass(frozen=True, slots=True)
class OfferingFacts:
    """What makes an Offering; the names are its fields."""

    provider: str
    request_model: str
    response_model: str
    service_tier: str
    device_type: str
    allocation_method: str


@dataclass(frozen=True, slots=True)
class Quantities:
    """What a ledger entry counts; None is unknown. The names are Entry's columns."""

    input_tokens: int | None
    cache_read_input_tokens: int | None
    cache_write_input_tokens: int | None
    output_tokens: int | None
    reasoning_output_tokens: int | None
    device_ns: int | None
    device_ns_marginal: int | None
    device_ns_alone: int | None
    energy_uj: int | None
    prefix_repeated_tokens: int | None
    repeated_device_ns: int | None


@dataclass(frozen=True, slots=True)
class Latencies:
    """How slow it was, in nanoseconds. The names are Entry's columns."""

    duration_ns: int | None
    time_to_first_token_ns: int | None
    time_per_output_token_ns: int | None
    queue_ns: int | None


@dataclass(frozen=True, slots=True)
class MergedCall:
    begun_micros: int  # since 1970; to the microsecond, as Postgres keeps it
    source: SourceFacts
    offering: OfferingFacts
    failed: bool
    usage_known: bool
    contradicted: bool
    quantities: Quantities
    latencies: Latencies


def merge(
    seen: Iterable[Seen], inherited: Sequence[Tags] = (), *, shares_id: bool = False
) -> MergedCall | None:
    """The call that these observations speak of; None when all of them wrap other calls.

    inherited   tags of the spans around them, nearest first: they fill what the call's own leave open.
    shares_id   they cannot all be of one call (repeats.py): then it is counted as one, and marked.
    """
    counted = [one for one in seen if not one.wraps]
    if not counted:
        return None
    outer = outermost_first(counted)
    inner = _ranked(counted, _NEAREST_DEVICE)
    told = min(outer, key=_trust).observation
    first = outer[0].observation
    return MergedCall(
        begun_micros=start_micros(first),
        source=source_of(outer, inherited),
        offering=offering_of(outer, inner),
        failed=bool(first.error_type),
        usage_known=told.provenance is not Provenance.ABSENT,
        contradicted=shares_id or bool(told.contradiction),
        quantities=_quantities(told.usage, inner),
        latencies=_latencies(outer, inner),
    )


def outermost_first(seen: Sequence[Seen]) -> list[Seen]:
    """The application's own view first, the runtime's last."""
    return _ranked(seen, _NEAREST_APPLICATION)


def _ranked(seen: Sequence[Seen], vantages: Sequence[Vantage]) -> list[Seen]:
    return sorted(
        seen,
        key=lambda one: (
            vantages.index(one.observation.vantage),
            one.observation.start_unix_ns,
            one.span_key,
        ),
    )


def _trust(one: Seen) -> tuple[int, bool, bool, bool, int, int]:
    """The smallest is believed about tokens: reported before estimated, sound, whole, detailed, nearest to the device."""
    observation = one.observation
    usage = observation.usage
    details = (
        usage.cache_read_input_tokens,
        usage.cache_write_input_tokens,
        usage.reasoning_output_tokens,
    )
    return (
        _PROVENANCE.index(observation.provenance),
        bool(observation.contradiction),
        usage.input_tokens is None,  # TGI's spans know only what came out
        observation.dialect in _LESS_EXACT,
        sum(detail is None for detail in details),
        _NEAREST_DEVICE.index(observation.vantage),
    )


def _first(seen: Iterable[Seen], pick: Callable[[Observation], T]) -> T | None:
    return next((value for one in seen if (value := pick(one.observation))), None)


def _known(seen: Iterable[Seen], pick: Callable[[Observation], T | None]) -> T | None:
    return next((value for one in seen if (value := pick(one.observation)) is not None), None)


def tags_of(outer: Sequence[Seen], inherited: Sequence[Tags] = ()) -> Tags:
    """Field by field, the first that says something: the call's own spans, those around them, the resource."""
    tags = Tags()
    for one in (
        *(seen.observation.tags for seen in outer),
        *inherited,
        *(seen.observation.resource_tags for seen in outer),
    ):
        tags = replace(
            tags,
            team=tags.team or one.team,
            feature=tags.feature or one.feature,
            customer=tags.customer or one.customer,
            user=tags.user or one.user,
            session=tags.session or one.session,
        )
    return tags


def source_of(outer: Sequence[Seen], inherited: Sequence[Tags]) -> SourceFacts:
    """Who sent it. outer: the observations, the application's own first."""
    tags = tags_of(outer, inherited)
    return SourceFacts(
        key_id=outer[0].key_id,
        service_name=outer[0].observation.service_name[:255],
        environment=outer[0].observation.environment[:255],
        team_tag=(tags.team or "")[:255],
        feature=(tags.feature or "")[:255],
        customer=(tags.customer or "")[:255],
    )


def offering_of(outer: Sequence[Seen], inner: Sequence[Seen]) -> OfferingFacts:
    """What was bought or run. inner: the observations, the device's own first."""
    return OfferingFacts(
        provider=(_first(inner, lambda o: o.provider) or "")[:255],
        request_model=(_first(outer, lambda o: o.request_model) or "")[:255],
        response_model=(_first(inner, lambda o: o.response_model) or "")[:255],
        service_tier=(_first(inner, lambda o: o.service_tier) or "")[:64],
        device_type=(_first(inner, lambda o: o.device_type) or "")[:255],
        allocation_method=(_first(inner, lambda o: o.allocation_method) or "")[:16],
    )


def _quantities(usage: Usage, inner: Sequence[Seen]) -> Quantities:
    device_ns = _known(inner, lambda o: o.device_ns)
    repeated = _known(inner, lambda o: o.request_repeated)
    return Quantities(
        input_tokens=usage.input_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_write_input_tokens=usage.cache_write_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_output_tokens=usage.reasoning_output_tokens,
        device_ns=device_ns,
        device_ns_marginal=_known(inner, lambda o: o.device_ns_marginal),
        device_ns_alone=_known(inner, lambda o: o.device_ns_alone),
        energy_uj=_known(inner, lambda o: o.energy_uj),
        prefix_repeated_tokens=_known(inner, lambda o: o.prefix_repeated_tokens),
        repeated_device_ns=device_ns if repeated else None,
    )


def _latencies(outer: Sequence[Seen], inner: Sequence[Seen]) -> Latencies:
    first = outer[0].observation
    return Latencies(
        duration_ns=first.end_unix_ns - first.start_unix_ns,
        time_to_first_token_ns=_known(outer, lambda o: o.time_to_first_token_ns),
        time_per_output_token_ns=_known(outer, lambda o: o.time_per_output_token_ns),
        queue_ns=_known(inner, lambda o: o.queue_ns),
    )
