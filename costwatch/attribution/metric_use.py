"""What metrics count for → rows of MetricUse, and their sums in a batch.

    count       a body's points, and the hours of its spans
    ├─ settle   brings what is counted of metrics to what gaps.py says
    └─ write    the rows as one batch, which reaches the rollups as the ledger's do

A client's metrics fill the hours of its service in which no spans were sent, nor spans of the runtime that serves its
model. A gateway's, and a runtime's, give way to spans of their model from whatever service, and to metrics that are
nearer to the application: those know more of who pays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from django.db.models import Q, QuerySet, Sum

from collectors.observation import Observation, TokenPoint, Vantage
from costwatch.accounts.models import IngestKey
from costwatch.attribution import gaps, spanned, token_streams
from costwatch.attribution.copying import datetime_of_hour, hours_of
from costwatch.attribution.gaps import USE_COLUMNS, InForce, Place, Stream, Use, model_key
from costwatch.attribution.health import too_many_values
from costwatch.attribution.models import Batch, Offering
from costwatch.attribution.rollups import USAGE_COLUMNS
from costwatch.attribution.spanned import Kind, Spanned
from costwatch.attribution.token_models import MetricUse, SpannedHour, TokenStream
from costwatch.attribution.token_streams import Kept, load
from costwatch.domain.allocation import HOUR_NS

# Nearest to the application first. A framework's metrics are its application's.
_ORDER = (Vantage.CLIENT, Vantage.GATEWAY, Vantage.SERVER)

_Claim = tuple[int, str]  # an hour and a model
_NOTHING = (0,) * len(USE_COLUMNS)
_PLACES = tuple(USAGE_COLUMNS.index(name) for name in USE_COLUMNS)


class Row(NamedTuple):
    """A row of MetricUse to be written."""

    process: UUID
    hour: int
    source_id: int
    offering_id: int
    vantage: str
    change: tuple[int, ...]  # in the order of USE_COLUMNS


@dataclass(slots=True)
class Settled:
    """What is to be written, and what became of the streams that were looked at."""

    rows: list[Row] = field(default_factory=list)
    counted: set[tuple[int, int]] = field(default_factory=set)  # hour and stream
    repeated: set[tuple[int, int]] = field(default_factory=set)
    covered: set[tuple[int, int]] = field(default_factory=set)

    def add(self, other: InForce) -> None:
        self.counted |= other.counted
        self.repeated |= other.repeated
        self.covered |= other.covered


def count(
    key: IngestKey, points: Iterable[TokenPoint], kinds: Mapping[Kind, Observation]
) -> tuple[int | None, Counter[str]]:
    """Count what these points say beyond spans, and take back what the spans of these kinds say themselves.

    Returns the id of the batch, None where no sum changed, and what became of each point. Runs under ingest's lock.
    """
    kept = token_streams.keep(key, points)
    settled = settle(key.organization_id, kept, spanned.keep(key.organization_id, kinds))
    return write(key, settled.rows), _outcomes(kept, settled) + _overflows(key, kept)


def _outcomes(kept: Iterable[Kept], settled: Settled) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for one in kept:
        outcomes["token metric: sent before"] += one.again
        outcomes[_TOO_MANY] += one.too_many
        for point in one.fresh:
            where = (point.time_unix_ns // HOUR_NS, one.stream.pk)
            outcomes[f"token metric: {_outcome(where, settled)}"] += 1
    return +outcomes


def _overflows(key: IngestKey, kept: Iterable[Kept]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for one in kept:
        for name in token_streams.overflown(key, one.fresh[0]) if one.fresh else ():
            outcomes[too_many_values(name)] += len(one.fresh)
    return outcomes


_TOO_MANY = f"token metric: not counted, more than {token_streams.MOST_POINTS:,} points of a series in an hour"


def _outcome(where: tuple[int, int], settled: Settled) -> str:
    if where in settled.counted:
        return "counted"
    if where in settled.repeated:
        return "not counted, another metric says the same"
    if where in settled.covered:
        return "not counted, spans or better metrics are sent"
    return "a first reading, nothing to count yet"


def settle(organization_id: int, kept: Sequence[Kept], new: Collection[Spanned]) -> Settled:
    """What is to be written after these points and these newly spanned hours. Runs under ingest's lock."""
    settled = Settled()
    hours = {hour for one in kept for hour in one.hours} | {one.hour for one in new}
    if not hours or not (kept or _sends_metrics(organization_id)):
        return settled
    for first, last in _runs(hours):
        touched = [one.stream for one in kept if _within(one.hours, first, last)]
        near = [one for one in new if first <= one.hour <= last]
        _Run(organization_id, first, last, settled).settle(touched, near)
    return settled


def _sends_metrics(organization_id: int) -> bool:
    return TokenStream.objects.filter(organization_id=organization_id).exists()


def _runs(hours: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of hours that follow each other. There is at least one."""
    first, *others = sorted(hours)
    last = first
    for hour in others:
        if hour > last + 1:
            yield first, last
            first = hour
        last = hour
    yield first, last


def _within(hours: Iterable[int], first: int, last: int) -> bool:
    return any(first <= hour <= last for hour in hours)


class _Run:
    """Some hours that follow each other; they grow by those that the segments in them reach into."""

    def __init__(self, organization_id: int, first: int, last: int, settled: Settled) -> None:
        self.organization_id = organization_id
        self.first, self.last = first, last
        self.settled = settled
        self.earliest = hours_of(token_streams.settled_before())

    def settle(self, touched: Collection[TokenStream], new: Sequence[Spanned]) -> None:
        claims_changed = False
        for vantage in _ORDER:
            processes = {one.process for one in touched if one.vantage == vantage}
            if new or (claims_changed and vantage is not Vantage.CLIENT):
                near = self._streams().filter(vantage=vantage)
                if vantage is Vantage.CLIENT:
                    near = near.filter(_spoken_of(new))
                processes |= set(near.values_list("process", flat=True))
            if processes:
                changed = self._settle_processes(processes, vantage)
                claims_changed = claims_changed or changed

    def _streams(self) -> QuerySet[TokenStream]:
        """Those that may have counted in these hours."""
        return TokenStream.objects.filter(
            organization_id=self.organization_id,
            first_hour__lte=datetime_of_hour(self.last),
            last_hour__gte=datetime_of_hour(self.first),
        )

    def _settle_processes(self, processes: Collection[UUID], vantage: Vantage) -> bool:
        """Bring what is counted of these processes to what the rule says; whether that changes which models count."""
        streams = self._load(processes)
        first, last = _reach(streams, self.first, self.last)
        if (first, last) != (self.first, self.last):
            self.first, self.last = first, last
            streams = self._load(processes)
        found = gaps.in_force(streams, self._better(streams, vantage).covers)
        self.settled.add(found)
        rows, turned = self._changes(processes, vantage, found.uses)
        later = _ORDER[_ORDER.index(vantage) + 1 :]
        if not turned or not self._streams().filter(vantage__in=later).exists():
            self.settled.rows += rows
            return False
        before = self._claims((vantage,), self.first, self.last)
        self.settled.rows += rows
        return before != self._claims((vantage,), self.first, self.last)

    def _load(self, processes: Collection[UUID]) -> list[Stream]:
        return load(self._streams().filter(process__in=processes), self.first, self.last)

    def _better(self, streams: Sequence[Stream], vantage: Vantage) -> _Better:
        """What is known better than by these streams, in all hours that they reach into."""
        first, last = _reach(streams, self.first, self.last)
        spans = SpannedHour.objects.filter(
            _that_may_cover(streams, vantage),
            organization_id=self.organization_id,
            hour__range=(datetime_of_hour(first), datetime_of_hour(last)),
        )
        better = _Better(of_clients=vantage is Vantage.CLIENT)
        for moment, service, environment, model, seen_from in spans.values_list(
            "hour", "service_name", "environment", "model", "vantage"
        ):
            hour = hours_of(moment)
            better.services.add((hour, service, environment))
            better.models.add((hour, model))
            if seen_from == Vantage.SERVER:
                better.served.add((hour, model))
        better.models |= self._claims(_ORDER[: _ORDER.index(vantage)], first, last)
        return better

    def _claims(self, vantages: Collection[Vantage], first: int, last: int) -> set[_Claim]:
        """Of which models metrics of these vantages count."""
        if not vantages:
            return set()
        net = self._net(
            MetricUse.objects.filter(vantage__in=vantages),
            [row for row in self.settled.rows if row.vantage in vantages],
            first,
            last,
        )
        counts = {(hour, offering) for (_, hour, _, offering), use in net.items() if any(use)}
        offerings = Offering.objects.in_bulk({offering for _, offering in counts})
        return {
            (hour, model_key(name))
            for hour, offering in counts
            for name in (offerings[offering].request_model, offerings[offering].response_model)
            if name
        }

    def _changes(
        self, processes: Collection[UUID], vantage: Vantage, uses: Mapping[Place, Use]
    ) -> tuple[list[Row], bool]:
        """The rows that bring what is counted to these uses; and whether something begins to count, or stops."""
        first = max(self.first, self.earliest)
        pending = [row for row in self.settled.rows if row.process in processes]
        counted = MetricUse.objects.filter(process__in=processes)
        net = self._net(counted, pending, first, self.last)
        places = {place for place in uses if first <= place[1] <= self.last} | net.keys()
        rows, turned = [], False
        for place in sorted(places):
            now = net.get(place, _NOTHING)
            then = uses[place].values() if place in uses else _NOTHING
            change = tuple(new - old for new, old in zip(then, now, strict=True))
            if any(change):
                rows.append(Row(*place, vantage.value, change))
                turned = turned or any(now) != any(then)
        return rows, turned

    def _net(
        self, counted: QuerySet[MetricUse], pending: Iterable[Row], first: int, last: int
    ) -> dict[Place, tuple[int, ...]]:
        """What is counted in these hours, with what is to be written."""
        sums = (
            counted.filter(
                organization_id=self.organization_id,
                hour__range=(datetime_of_hour(first), datetime_of_hour(last)),
            )
            .values_list("process", "hour", "source_id", "offering_id")
            .annotate(*(Sum(name) for name in USE_COLUMNS))
        )
        net: dict[Place, tuple[int, ...]] = {}
        for process, moment, source, offering, *use in sums:
            net[process, hours_of(moment), source, offering] = tuple(map(int, use))
        for row in pending:
            if first <= row.hour <= last:
                now = net.get(row[:4], _NOTHING)
                net[row[:4]] = tuple(map(sum, zip(now, row.change, strict=True)))
        return net


@dataclass(slots=True)
class _Better:
    """What spans, and metrics nearer to the application, speak of."""

    of_clients: bool  # whether it is clients' metrics that this is better than
    services: set[tuple[int, str, str]] = field(default_factory=set)  # hour, name, environment
    models: set[_Claim] = field(default_factory=set)
    served: set[_Claim] = field(default_factory=set)  # of runtimes' own spans; model "": any

    def covers(self, stream: Stream, hours: range) -> bool:
        if any((hour, *stream.service) in self.services for hour in hours):
            return True
        if self.of_clients:
            return any((hour, model) in self.served for hour in hours for model in stream.models)
        if not stream.models:  # it may speak of any
            return any(hour in hours for hour, _ in self.models)
        return any(
            (hour, model) in self.models for hour in hours for model in stream.models
        ) or any((hour, "") in self.served for hour in hours)


def _that_may_cover(streams: Iterable[Stream], vantage: Vantage) -> Q:
    """The rows of SpannedHour that _Better.covers asks for."""
    own = Q(service_name__in={one.service[0] for one in streams})
    of_models = Q(model__in={model for one in streams for model in one.models})
    of_runtimes = Q(vantage=Vantage.SERVER)
    if vantage is Vantage.CLIENT:
        return own | (of_runtimes & of_models)
    if all(one.models for one in streams):
        return own | of_models | (of_runtimes & Q(model=""))
    return Q()


def _spoken_of(new: Iterable[Spanned]) -> Q:
    """The clients' streams that these spans may cover: of their services, and of what runtimes say that they serve."""
    served = {one.model for one in new if one.vantage == Vantage.SERVER and one.model}
    own = Q(service_name__in={one.service_name for one in new})
    return own | Q(models_said__overlap=sorted(served)) if served else own


def _reach(streams: Iterable[Stream], first: int, last: int) -> tuple[int, int]:
    """The hours from first to last, and those that segments in them reach into."""
    for stream in streams:
        for segment in stream.segments:
            first = min(first, segment.hours.start)
            last = max(last, segment.hours.stop - 1)
    return first, last


def write(key: IngestKey, rows: Sequence[Row]) -> int | None:
    """Write these rows as one batch, and return its id; None where there are none."""
    if not rows:
        return None
    hours = [row.hour for row in rows]
    batch = Batch.objects.create(
        organization_id=key.organization_id,
        key=key,
        entries=len(rows),
        first_started_at=datetime_of_hour(min(hours)),
        last_started_at=datetime_of_hour(max(hours)),
        sums={"usage": _sums(rows), "latency": []},
    )
    MetricUse.objects.bulk_create(
        MetricUse(
            organization_id=key.organization_id,
            batch_id=batch.pk,
            hour=datetime_of_hour(row.hour),
            process=row.process,
            vantage=row.vantage,
            source_id=row.source_id,
            offering_id=row.offering_id,
            **dict(zip(USE_COLUMNS, row.change, strict=True)),
        )
        for row in rows
    )
    return batch.pk


def _sums(rows: Iterable[Row]) -> list[list[int]]:
    """What these rows add to each hour, source and offering, as rollups.py reads it."""
    sums: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0] * len(USAGE_COLUMNS))
    for row in rows:
        added = sums[row.hour, row.source_id, row.offering_id]
        for place, value in zip(_PLACES, row.change, strict=True):
            added[place] += value
    return [[*about, *added] for about, added in sums.items()]
