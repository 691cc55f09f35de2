"""A month of made-up traffic, for pages that are not worth looking at without one.

The texts, teams and figures are invented; everything after that is the real path: observations go through ingest
into the ledger and the rollups, and the audit holds for them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from collectors.observation import (
    Decoded,
    DeviceTime,
    Observation,
    Provenance,
    Tags,
    Usage,
    Vantage,
)

GPU = "NVIDIA L4"
_SECOND_NS = 1_000_000_000
_HOUR_NS = 3600 * _SECOND_NS


@dataclass(frozen=True, slots=True)
class Application:
    """One application's habits. Tokens are medians; weekend is its share of a weekday's traffic."""

    team: str
    feature: str
    provider: str
    model: str
    share: float
    weekend: float
    growth_per_month: float
    input_tokens: int
    output_tokens: int
    cached_share: float = 0.0
    output_tokens_per_second: int = 60
    failing: float = 0.004
    device_ms_per_call: int = 0
    prefix_share: float = 0.0
    repeated: float = 0.0


APPLICATIONS = (
    Application("web-search", "answers", "openai", "gpt-4o", 0.18, 0.7, 1.3, 2400, 320, 0.35),
    Application("web-search", "query-rewrite", "openai", "gpt-4o-mini", 0.30, 0.7, 1.3, 180, 24),
    Application("support", "chat", "anthropic", "claude-sonnet-4-5", 0.14, 0.5, 1.1, 3800, 410, 0.6),
    Application("support", "triage", "openai", "gpt-4o-mini", 0.20, 0.5, 1.0, 420, 4, repeated=0.3),
    Application("legal", "contract-summaries", "anthropic", "claude-sonnet-4-5", 0.03, 0.1, 1.0, 14000, 700),
    Application(
        "data-platform", "report-drafts", "costwatch", "llama-3.1-8b", 0.12, 1.0, 1.5, 6000, 900,
        device_ms_per_call=45_000, prefix_share=0.55, repeated=0.08, output_tokens_per_second=22,
    ),
    Application("", "", "openai", "gpt-4o", 0.03, 0.9, 1.0, 1500, 250),
)  # fmt: skip

# Department: its teams with cost centres.
TEAMS = {
    "Product": {"Web Search": "CC-310", "Support": "CC-320"},
    "Corporate": {"Legal": "CC-410", "Data Platform": "CC-420"},
}


def bodies(today: date, days: int, calls_per_day: int, seed: int) -> Iterator[Decoded]:
    """One body of telemetry per hour, up to yesterday's last hour. The same seed gives the same month."""
    chance = random.Random(seed)  # noqa: S311  made-up traffic, not secrets
    clock = _Clock()
    for number in range(days):
        day = today - timedelta(days=days - number)
        for hour in range(24):
            begun = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
            seen = [
                _call(application, begun, chance)
                for application in APPLICATIONS
                for _ in range(_calls(application, begun, number / days, calls_per_day, chance))
            ]
            yield Decoded(observations=seen, device_times=clock.hour(begun, seen), items=len(seen))


def _calls(
    application: Application, hour: datetime, elapsed: float, per_day: int, chance: random.Random
) -> int:
    working = 1 + 0.9 * math.sin((hour.hour - 8) / 24 * 2 * math.pi)
    day = application.weekend if hour.weekday() >= 5 else 1.0
    growth = application.growth_per_month**elapsed
    expected = per_day / 24 * application.share * working * day * growth
    return max(0, round(chance.gauss(expected, math.sqrt(expected + 0.1))))


def _call(application: Application, hour: datetime, chance: random.Random) -> Observation:
    begun_ns = int(hour.timestamp()) * _SECOND_NS + chance.randrange(_HOUR_NS - 60 * _SECOND_NS)
    inputs = round(application.input_tokens * chance.lognormvariate(0, 0.4))
    outputs = max(1, round(application.output_tokens * chance.lognormvariate(0, 0.5)))
    cached = round(inputs * application.cached_share * chance.uniform(0.6, 1.0))
    failed = chance.random() < application.failing
    first_ns = round((0.25 + inputs / 20_000) * chance.lognormvariate(0, 0.3) * _SECOND_NS)
    each_ns = round(
        _SECOND_NS / application.output_tokens_per_second * chance.lognormvariate(0, 0.2)
    )
    device_ns = round(application.device_ms_per_call * 1_000_000 * chance.lognormvariate(0, 0.3))
    hosted = application.device_ms_per_call > 0
    return Observation(
        trace_id=chance.randbytes(16),
        span_id=chance.randbytes(8),
        parent_span_id=None,
        start_unix_ns=begun_ns,
        end_unix_ns=begun_ns + first_ns + each_ns * (outputs - 1),
        dialect="otel_genai",
        vantage=Vantage.SERVER if hosted else Vantage.CLIENT,
        service_name=application.feature or "notebook",
        environment="production",
        tags=Tags(
            team=application.team or None,
            feature=application.feature or None,
            user=f"user-{chance.randrange(200)}",
        ),
        operation="chat",
        provider=application.provider,
        request_model=application.model,
        response_model=application.model,
        response_id=f"generated-{chance.randbytes(12).hex()}",
        streaming=True,
        error_type="timeout" if failed else "",
        usage=Usage() if failed else Usage(inputs - cached, cached, None, outputs, None),
        provenance=Provenance.ABSENT if failed else Provenance.REPORTED,
        time_to_first_token_ns=None if failed else first_ns,
        time_per_output_token_ns=None if failed else each_ns,
        queue_ns=round(first_ns * 0.2) if hosted else None,
        device_ns=device_ns if hosted else None,
        device_ns_marginal=round(device_ns * 0.7) if hosted else None,
        device_ns_alone=round(device_ns * 2.2) if hosted else None,
        device_type=GPU if hosted else "",
        allocation_method="measured" if hosted else "",
        prefix_repeated_tokens=round(inputs * application.prefix_share) if hosted else None,
        request_repeated=chance.random() < application.repeated if hosted else None,
    )


class _Clock:
    """The GPU's clock: what the calls of an hour took is attributed, the rest of the hour idle.

    Work that does not fit into its hour runs on in the next.
    """

    def __init__(self) -> None:
        self._begun_ns: int | None = None
        self._attributed_ns = 0
        self._waiting_ns = 0

    def hour(self, hour: datetime, seen: list[Observation]) -> list[DeviceTime]:
        start_ns = int(hour.timestamp()) * _SECOND_NS
        if self._begun_ns is None:
            self._begun_ns = start_ns
        self._waiting_ns += sum(one.device_ns or 0 for one in seen)
        done_ns = min(self._waiting_ns, _HOUR_NS)
        self._waiting_ns -= done_ns
        self._attributed_ns += done_ns
        end_ns = start_ns + _HOUR_NS
        states = {
            "attributed": self._attributed_ns,
            "unattributed": 0,
            "idle": end_ns - self._begun_ns - self._attributed_ns,
        }
        return [
            DeviceTime(
                "labelling", "generated", "gpu-0", GPU, state, self._begun_ns, end_ns, value_ns
            )
            for state, value_ns in states.items()
        ]
