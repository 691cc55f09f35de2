"""What each ingest key brings, what became of it, and what of it nobody can price."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import queries
from costwatch.attribution.health import BESIDE_OTHERS, TOO_MANY_VALUES
from costwatch.attribution.queries import IngestRow, Lag
from costwatch.domain.periods import Period, hour_of
from costwatch.pricing.unpriced import MeterUse, meters_used

RATE_HOURS = 24

# What attribution writes into IngestHour.outcome, by how it begins.
_COUNTED = ("observation", "contradiction: ")
_BEGINNINGS = {
    "refused": "refused: ",
    "contradictions": "contradiction: ",
    "dropped": "dropped: ",
    "held_up": "held up: ",
    "repeated_ids": "repeated id: ",
    "overflowed": TOO_MANY_VALUES,
    "token_metrics": "token metric: ",
}


@dataclass(frozen=True, slots=True)
class Said:
    """So many items, and why."""

    reason: str
    items: int
    example: str = ""  # the id of one of them, where that helps to find the others


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A model, or what of it is metered, that no price, or no exchange rate for it, was known for in a period.

    A model is unknown where nothing of it has a price; else single SKUs of it lack theirs.
    """

    provider: str
    model: str
    device_type: str
    meters: tuple[str, ...]  # of the SKUs without a price
    unknown: bool
    calls: int
    keys: tuple[str, ...]  # that sent it
    lacks_rates_of: tuple[
        str, ...
    ]  # currencies of prices that it has, for want of exchange rates not known


@dataclass(frozen=True, slots=True)
class KeyHealth:
    """A key's telemetry in a period. Items are spans, points of metrics, log records and bodies, as the reason says."""

    key: IngestKey
    items: int
    counted: int  # observations of calls, also those that contradict themselves
    links: int
    wrappers: int
    duplicates: int
    refused: tuple[Said, ...]
    contradictions: tuple[Said, ...]
    repeated_ids: tuple[Said, ...]  # calls that were merged into others of the same response id
    dropped: tuple[Said, ...]
    held_up: tuple[Said, ...]
    overflowed: tuple[Said, ...]
    token_metrics: tuple[Said, ...]  # how many of their points counted, how many did not
    per_minute: float  # now: in this hour and the one before
    hours: tuple[int, ...]  # items in each of the last RATE_HOURS hours, this one included
    lag: Lag | None  # None: nothing new came
    lag_lately: Lag | None  # in the last RATE_HOURS hours

    @property
    def last_received_at(self) -> datetime | None:
        """To the minute."""
        return self.key.last_used_at


@dataclass(frozen=True, slots=True)
class Health:
    keys: tuple[KeyHealth, ...]  # those that sent in the period or may send, the busiest first
    unpriced: tuple[Unpriced, ...]  # unknown models first


@dataclass(frozen=True, slots=True)
class Overflow:
    """A name of which a key sent more different values than are kept apart, and of how many spans it became OTHER."""

    key: str
    name: str  # feature, service name, request model, …
    items: int


def overflows(organization: Organization, period: Period) -> list[Overflow]:
    """The most frequent first."""
    found = queries.ingest_health(organization, period, beginning=_BEGINNINGS["overflowed"])
    return [Overflow(row.key, _name_of(row.outcome), row.items) for row in found]


def _name_of(outcome: str) -> str:
    return outcome.removeprefix(_BEGINNINGS["overflowed"]).partition(":")[0]


def ingest_health(organization: Organization, period: Period, now: datetime) -> Health:
    rows: dict[int, list[IngestRow]] = defaultdict(list)
    for row in queries.ingest_health(organization, period):
        rows[row.key_id].append(row)
    first = hour_of(now) - timedelta(hours=RATE_HOURS - 1)
    last_hours = Period(first, first + timedelta(hours=RATE_HOURS))
    lately = queries.arrivals(organization, last_hours)
    lags, lags_lately = (queries.lags(organization, when) for when in (period, last_hours))
    keys = IngestKey.objects.filter(organization=organization).select_related("team")
    healths = [
        _health(
            key,
            rows[key.pk],
            lately.get(key.pk, {}),
            lags.get(key.pk),
            lags_lately.get(key.pk),
            now,
        )
        for key in keys.order_by("name", "pk")
        if rows[key.pk] or key.revoked_at is None
    ]
    return Health(
        tuple(sorted(healths, key=lambda health: -health.items)),
        unpriced(organization, period),
    )


def _health(
    key: IngestKey,
    rows: Sequence[IngestRow],
    lately: Mapping[datetime, int],
    lag: Lag | None,
    lag_lately: Lag | None,
    now: datetime,
) -> KeyHealth:
    items = {row.outcome: row.items for row in rows}
    this_hour = hour_of(now)
    hours = [this_hour - timedelta(hours=n) for n in reversed(range(RATE_HOURS))]
    minutes = 60 + (now - this_hour) / timedelta(minutes=1)
    return KeyHealth(
        key=key,
        items=sum(n for outcome, n in items.items() if not outcome.startswith(BESIDE_OTHERS)),
        counted=sum(n for outcome, n in items.items() if outcome.startswith(_COUNTED)),
        links=items.get("link", 0),
        wrappers=items.get("wrapper", 0),
        duplicates=items.get("duplicate", 0),
        **{name: _said(rows, beginning) for name, beginning in _BEGINNINGS.items()},
        per_minute=sum(lately.get(hour, 0) for hour in hours[-2:]) / minutes,
        hours=tuple(lately.get(hour, 0) for hour in hours),
        lag=lag,
        lag_lately=lag_lately,
    )


def _said(rows: Iterable[IngestRow], beginning: str) -> tuple[Said, ...]:
    return tuple(
        Said(row.outcome.removeprefix(beginning), row.items, row.example)
        for row in rows
        if row.outcome.startswith(beginning)
    )


_Model = tuple[str, str, str]  # provider, model, device type


def unpriced(organization: Organization, period: Period) -> tuple[Unpriced, ...]:
    """What was used in a period and has no price, or no exchange rate for it: unknown models first, the most used first."""
    keys = {key.pk: str(key) for key in IngestKey.objects.filter(organization=organization)}
    by_model: dict[_Model, list[MeterUse]] = defaultdict(list)
    for use in meters_used(organization, period):
        by_model[use.provider, use.model, use.device_type].append(use)
    found = [_unpriced(model, uses, keys) for model, uses in by_model.items()]
    return tuple(
        sorted(
            (one for one in found if one.meters),
            key=lambda one: (not one.unknown, -one.calls, one.provider, one.model),
        )
    )


def _unpriced(model: _Model, uses: Iterable[MeterUse], keys: Mapping[int, str]) -> Unpriced:
    known = list(uses)
    without = [use for use in known if use.lacks_price or use.lacks_rates_of]
    calls: dict[str, int] = defaultdict(int)
    for use in without:
        calls[use.meter] += use.unpriced_calls
    return Unpriced(
        *model,
        meters=tuple(sorted(calls)),
        unknown=not any(use.has_price or use.lacks_rates_of for use in known),
        calls=max(calls.values(), default=0),  # a call is in each of its meters
        keys=tuple(sorted({keys[use.key_id] for use in without})),
        lacks_rates_of=tuple(sorted({one for use in without for one in use.lacks_rates_of})),
    )
