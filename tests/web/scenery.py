"""A month of a plausible organization, for pages to be looked at: two departments, five teams, six models.

Everything goes through the door that telemetry takes; only prices and teams are made by hand.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from collectors import semconv
from collectors.observation import (
    Decoded,
    DeviceTime,
    Observation,
    Provenance,
    Tags,
    Usage,
    Vantage,
)
from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.attribution.ingest import take
from costwatch.attribution.rollups import add_batches
from costwatch.domain.pricing import NS_PER_HOUR, UnitPrice
from costwatch.pricing.prices import PriceRange, set_price
from costwatch.pricing.rates import Sku, refresh
from tests.factories import body, ingest_key, observation, unix_ns

H100 = "NVIDIA H100 80GB HBM3"


@dataclass(frozen=True)
class Habit:
    """What one team does every day."""

    team: str | None
    feature: str | None
    provider: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cached: float = 0.0
    own: bool = False


HABITS = (
    Habit("chat-assistant", "support chat", "openai", "gpt-4o-2024-08-06", 26, 1900, 340, 0.35),
    Habit("chat-assistant", "follow-ups", "openai", "gpt-4o-mini-2024-07-18", 18, 900, 120),
    Habit("summaries", "contracts", "anthropic", "claude-sonnet-4-5", 9, 14000, 900, 0.1),
    Habit(
        "classification",
        "inbox routing",
        "costwatch",
        "SmolLM2-135M-Instruct",
        40,
        420,
        6,
        own=True,
    ),
    Habit(
        "agents",
        "research agent",
        "costwatch",
        "Llama-3.1-8B-Instruct",
        22,
        6200,
        410,
        0.6,
        own=True,
    ),
    Habit("agents", "planner", "openai", "gpt-4o-2024-08-06", 5, 5200, 700, 0.5),
    Habit("search", "query rewriting", "openai", "gpt-4o-mini-2024-07-18", 24, 260, 40),
    Habit(None, None, "openai", "gpt-4o-2024-08-06", 4, 800, 200),
    Habit("search", "ranking", "in-house", "ranker-7b", 5, 700, 10),
)
PRICES = {
    ("openai", "gpt-4o-2024-08-06"): ("2.50", "1.25", "10.00"),
    ("openai", "gpt-4o-mini-2024-07-18"): ("0.15", "0.075", "0.60"),
    ("anthropic", "claude-sonnet-4-5"): ("3.00", "0.30", "15.00"),
}


def furnish(organization: Organization, now: datetime, days: int = 24) -> IngestKey:
    """Teams, prices and `days` of use up to now."""
    _teams(organization)
    key = ingest_key(organization)
    chance = random.Random(7)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1)
    attributed_ns = 0
    for day in range(days):
        seen = list(_day(start + timedelta(days=day), now, chance))
        attributed_ns += sum(one.device_ns or 0 for one in seen)
        if seen:
            take(key, body(*seen))
    take(key, _devices(now, attributed_ns))
    add_batches(organization.pk)
    _prices(organization)
    refresh(organization.pk)
    return key


def _teams(organization: Organization) -> None:
    product = Team.objects.create(organization=organization, name="Product", cost_centre="4100")
    platform = Team.objects.create(organization=organization, name="Platform", cost_centre="4200")
    for name, parent in (
        ("Chat assistant", product),
        ("Summaries", product),
        ("Search", product),
        ("Agents", platform),
        ("Classification", platform),
    ):
        Team.objects.create(organization=organization, name=name, parent=parent)


def _day(day: datetime, now: datetime, chance: random.Random) -> Iterator[Observation]:
    weekend = 0.3 if day.weekday() >= 5 else 1.0
    for habit in HABITS:
        for _ in range(round(habit.calls * weekend * chance.uniform(0.75, 1.25))):
            hour = min(23, max(0, round(chance.gauss(13, 4))))
            at = day + timedelta(hours=hour, seconds=chance.uniform(0, 3599))
            if at < now - timedelta(seconds=60):
                yield from _call(habit, at, chance)


def _call(habit: Habit, at: datetime, chance: random.Random) -> Iterator[Observation]:
    size = chance.lognormvariate(0, 0.4)
    inputs = max(1, round(habit.input_tokens * size))
    cached = round(inputs * habit.cached)
    outputs = max(1, round(habit.output_tokens * chance.lognormvariate(0, 0.5)))
    first_ns = round(1e6 * chance.lognormvariate(5.6, 0.5))
    each_ns = round(1e6 * chance.lognormvariate(2.9, 0.3))
    failed = chance.randrange(40) == 0
    seen = observation(
        at=at,
        duration_ns=first_ns + each_ns * outputs,
        service_name="gateway" if habit.own else "shop",
        environment="production",
        tags=Tags(team=habit.team, feature=habit.feature, user=f"u{chance.randrange(400)}"),
        provider=habit.provider,
        request_model=habit.model,
        response_model=habit.model,
        response_id=f"resp-{chance.getrandbits(64):016x}",
        streaming=True,
        usage=Usage() if failed else Usage(inputs - cached, cached, None, outputs),
        provenance=Provenance.ABSENT if failed else Provenance.REPORTED,
        error_type="timeout" if failed else "",
        time_to_first_token_ns=None if failed else first_ns,
        time_per_output_token_ns=None if failed else each_ns,
    )
    yield seen
    if habit.own and not failed:
        yield _served(seen, inputs - cached, outputs)


def _served(seen: Observation, inputs: int, outputs: int) -> Observation:
    """The same call as the runtime saw it."""
    device_ns = inputs * 90_000 + outputs * 6_500_000
    return replace(
        seen,
        trace_id=observation().trace_id,
        span_id=observation().span_id,
        vantage=Vantage.SERVER,
        service_name="runtime",
        tags=Tags(),
        queue_ns=4_100_000,
        prefill_ns=inputs * 90_000,
        decode_ns=outputs * 12_000_000,
        device_ns=device_ns,
        device_ns_marginal=device_ns * 6 // 10,
        device_ns_alone=device_ns * 3,
        energy_uj=device_ns // 1000 * 400 // 1000,
        device_type=H100,
        allocation_method="measured",
    )


def _devices(now: datetime, attributed_ns: int) -> Decoded:
    """One H100, up for five times as long as it was used, and a little busy for nobody."""
    states = {
        semconv.DEVICE_STATE_ATTRIBUTED: attributed_ns,
        semconv.DEVICE_STATE_UNATTRIBUTED: attributed_ns // 7,
        semconv.DEVICE_STATE_IDLE: attributed_ns * 4,
    }
    end_ns = unix_ns(now)
    start_ns = end_ns - sum(states.values())
    times = [
        DeviceTime("runtime", "runtime-1", "gpu-0", H100, state, start_ns, end_ns, ns)
        for state, ns in states.items()
    ]
    return Decoded(device_times=times, items=len(times))


def _prices(organization: Organization) -> None:
    meters = ("input_tokens", "cache_read_input_tokens", "output_tokens")
    for (provider, model), amounts in PRICES.items():
        for meter, amount in zip(meters, amounts, strict=True):
            price = UnitPrice(Decimal(amount), 1_000_000, organization.currency)
            set_price(
                organization, Sku(provider, model, meter), price, PriceRange(), source="tests"
            )
    hour = UnitPrice(Decimal("2.49"), NS_PER_HOUR, organization.currency)
    set_price(
        organization, Sku("", "", "device_ns", device_type=H100), hour, PriceRange(), source="tests"
    )
