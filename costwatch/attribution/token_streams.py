"""Points of metrics → streams and their readings, as far as they tell what was used in which hour.

keep        a body's points; says which hours of which streams are new, and what was sent before
load        streams with all segments that touch some hours
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from collectors.observation import Meter, TokenPoint
from costwatch.accounts.models import IngestKey
from costwatch.attribution import dimensions, gaps
from costwatch.attribution.copying import datetime_of_hour, hours_of
from costwatch.attribution.dimensions import bounded, offering_id, source_id
from costwatch.attribution.gaps import Reading, Segment, Stream, model_key
from costwatch.attribution.locks import lock_ingest
from costwatch.attribution.merge import OfferingFacts, SourceFacts
from costwatch.attribution.token_models import SpannedHour, TokenHour, TokenStream
from costwatch.domain.allocation import HOUR_NS

_DAY_NS = 24 * HOUR_NS
MOST_POINTS = 10_000  # of one delta series in an hour; each body that adds one writes them all
_AROUND = """
SELECT stream_id, hour, numbers FROM attribution_tokenhour
 WHERE stream_id = ANY(%(streams)s) AND hour BETWEEN %(first)s AND %(last)s
UNION ALL
SELECT near.* FROM unnest(%(streams)s::bigint[]) AS wanted (id) CROSS JOIN LATERAL (
       SELECT stream_id, hour, numbers FROM attribution_tokenhour
        WHERE stream_id = wanted.id AND hour < %(first)s ORDER BY hour DESC LIMIT 1) AS near
UNION ALL
SELECT near.* FROM unnest(%(streams)s::bigint[]) AS wanted (id) CROSS JOIN LATERAL (
       SELECT stream_id, hour, numbers FROM attribution_tokenhour
        WHERE stream_id = wanted.id AND hour > %(last)s ORDER BY hour LIMIT 1) AS near
"""
# The newest of them stays: what is counted next is counted from there.
_FORGET = """
DELETE FROM attribution_tokenhour AS old
 WHERE organization_id = %(organization_id)s AND hour < %(edge)s AND EXISTS (
       SELECT FROM attribution_tokenhour AS newer
        WHERE newer.stream_id = old.stream_id AND newer.hour > old.hour AND newer.hour < %(edge)s)
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a stream's points."""

    stream: TokenStream
    fresh: Sequence[TokenPoint]  # those that say something new
    again: int
    too_many: int  # beyond MOST_POINTS
    hours: frozenset[int]  # since 1970, of the fresh ones


def keep(key: IngestKey, points: Iterable[TokenPoint]) -> list[Kept]:
    """Keep what these points say. Runs under ingest's lock."""
    by_digest: dict[UUID, list[TokenPoint]] = defaultdict(list)
    for point in points:
        by_digest[_digest(key, point)].append(point)
    if not by_digest:
        return []
    streams = _streams(key, by_digest)
    held = _held(streams, by_digest)
    kept = [
        _merge(stream, by_digest[digest], held[stream.pk]) for digest, stream in streams.items()
    ]
    _write(kept, held)
    return kept


def _digest(key: IngestKey, point: TokenPoint) -> UUID:
    begun = point.start_unix_ns if point.is_cumulative else "delta"
    said = f"{key.pk} {begun} ".encode() + point.series
    return UUID(bytes=blake2b(said, digest_size=16).digest())


def _streams(
    key: IngestKey, by_digest: Mapping[UUID, Sequence[TokenPoint]]
) -> dict[UUID, TokenStream]:
    found = TokenStream.objects.filter(organization_id=key.organization_id, digest__in=by_digest)
    streams = {stream.digest: stream for stream in found}
    missing = [
        _stream(key, digest, points[0])
        for digest, points in by_digest.items()
        if digest not in streams
    ]
    TokenStream.objects.bulk_create(missing)
    return streams | {stream.digest: stream for stream in missing}


def _stream(key: IngestKey, digest: UUID, point: TokenPoint) -> TokenStream:
    source, offering = _source(key, point), _offering(point)
    service = (source.service_name, source.environment)
    process = repr((*service, point.instance_id, point.vantage.value)).encode()
    # As spanned.py keeps those of spans: what gives way to a span must still do so when there are too many to tell apart.
    names = ("service_name", "environment", "request_model", "response_model")
    said = asdict(source) | asdict(offering)
    kept = bounded(key.organization_id, {name: said[name] for name in names})
    named = {model_key(kept[name]) for name in ("request_model", "response_model") if kept[name]}
    return TokenStream(
        organization_id=key.organization_id,
        digest=digest,
        process=UUID(bytes=blake2b(process, digest_size=16).digest()),
        key=key,
        vantage=point.vantage.value,
        service_name=kept["service_name"],
        environment=kept["environment"],
        scope=point.scope[:255],
        family=point.family[:255],
        meter=point.meter.value,
        is_cumulative=point.is_cumulative,
        started_unix_ns=point.start_unix_ns if point.is_cumulative else 0,
        source_id=source_id(key.organization_id, source),
        offering_id=offering_id(key.organization_id, offering),
        first_hour=datetime_of_hour(_first_hour(point)),
        last_hour=datetime_of_hour(point.time_unix_ns // HOUR_NS),
        models_said=sorted(named),
    )


def _source(key: IngestKey, point: TokenPoint) -> SourceFacts:
    own, resource = point.tags, point.resource_tags
    return SourceFacts(
        key_id=key.pk,
        service_name=point.service_name[:255],
        environment=point.environment[:255],
        team_tag=(own.team or resource.team or "")[:255],
        feature=(own.feature or resource.feature or "")[:255],
        customer=(own.customer or resource.customer or "")[:255],
    )


def _offering(point: TokenPoint) -> OfferingFacts:
    return OfferingFacts(
        provider=point.provider[:255],
        request_model=point.request_model[:255],
        response_model=point.response_model[:255],
        service_tier=point.service_tier[:64],
        device_type="",
        allocation_method="",
    )


def overflown(key: IngestKey, point: TokenPoint) -> set[str]:
    """The names of what this point has one value too many of."""
    return dimensions.overflown(key.organization_id, _source(key, point), _offering(point))


def _first_hour(point: TokenPoint) -> int:
    """The first hour in which it can have counted; what a stream counted a day before its first reading is nobody's."""
    return max(point.start_unix_ns, point.time_unix_ns - _DAY_NS) // HOUR_NS


def _hours(point: TokenPoint) -> range:
    """The hours that keep this point: a cumulative one is a reading, a delta one touches several."""
    last = point.time_unix_ns // HOUR_NS
    return range(last if point.is_cumulative else point.start_unix_ns // HOUR_NS, last + 1)


_Held = dict[int, dict[int, TokenHour]]  # by stream and hour


def _held(
    streams: Mapping[UUID, TokenStream], by_digest: Mapping[UUID, Iterable[TokenPoint]]
) -> _Held:
    hours = {hour for points in by_digest.values() for point in points for hour in _hours(point)}
    held: _Held = defaultdict(dict)
    found = TokenHour.objects.filter(
        stream__in=[stream.pk for stream in streams.values()],
        hour__in=[datetime_of_hour(hour) for hour in hours],
    )
    for row in found:
        held[row.stream_id][hours_of(row.hour)] = row
    return held


def _merge(stream: TokenStream, points: Sequence[TokenPoint], held: dict[int, TokenHour]) -> Kept:
    """Take points into a stream's hours; `held` holds the hours afterwards."""
    fresh, again = [], 0
    said: dict[int, _Readings | _Points] = {}
    for point in points:
        changed = False
        for hour in _hours(point):
            if hour not in said:
                said[hour] = _said(stream, held[hour].numbers if hour in held else ())
            changed = said[hour].add(point) or changed
        if changed:
            fresh.append(point)
        else:
            again += any(said[hour].holds(point) for hour in _hours(point))
    hours = frozenset(hour for point in fresh for hour in _hours(point))
    for hour in hours:
        row = held.setdefault(hour, _empty(stream, hour))
        row.numbers = [number for one in said[hour].rows() for number in one]
    return Kept(stream, fresh, again, len(points) - len(fresh) - again, hours)


def _empty(stream: TokenStream, hour: int) -> TokenHour:
    return TokenHour(
        organization_id=stream.organization_id,
        stream=stream,
        hour=datetime_of_hour(hour),
        numbers=[],
    )


class _Readings:
    """What an hour keeps of a cumulative series."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._readings = gaps.readings(numbers)

    def add(self, point: TokenPoint) -> bool:
        """Whether it says something new."""
        reading = Reading(point.time_unix_ns, point.tokens, point.calls)
        before, self._readings = (
            self._readings,
            gaps.first_and_last([*self._readings, reading]),
        )
        return before != self._readings

    def holds(self, point: TokenPoint) -> bool:
        """Whether what a point says is in what is kept."""
        return True

    def rows(self) -> Sequence[Sequence[int]]:
        return self._readings


class _Points:
    """What an hour keeps of a delta series: MOST_POINTS at most, who sends more exports too often."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._points = {one[:2]: one for one in gaps.points(numbers)}

    def add(self, point: TokenPoint) -> bool:
        """Whether it says something new."""
        one = Segment(point.start_unix_ns, point.time_unix_ns, point.tokens, point.calls)
        before = self._points.get(one[:2])
        if before is None and len(self._points) >= MOST_POINTS:
            return False
        self._points[one[:2]] = one if before is None else max(one, before)
        return self._points[one[:2]] != before

    def holds(self, point: TokenPoint) -> bool:
        return (point.start_unix_ns, point.time_unix_ns) in self._points

    def rows(self) -> Sequence[Sequence[int]]:
        return sorted(self._points.values())


def _said(stream: TokenStream, numbers: Sequence[int]) -> _Readings | _Points:
    return _Readings(numbers) if stream.is_cumulative else _Points(numbers)


def _write(kept: Iterable[Kept], held: _Held) -> None:
    changed = [(one, held[one.stream.pk]) for one in kept if one.hours]
    TokenHour.objects.bulk_create(
        [hours[hour] for one, hours in changed for hour in one.hours],
        update_conflicts=True,
        unique_fields=["stream", "hour"],
        update_fields=["numbers"],
    )
    longer = [one.stream for one, _ in changed if _lengthen(one)]
    TokenStream.objects.bulk_update(longer, ["first_hour", "last_hour"])


def _lengthen(kept: Kept) -> bool:
    stream = kept.stream
    first = datetime_of_hour(min(_first_hour(point) for point in kept.fresh))
    last = datetime_of_hour(max(kept.hours))
    if stream.first_hour <= first and last <= stream.last_hour:
        return False
    stream.first_hour = min(stream.first_hour, first)
    stream.last_hour = max(stream.last_hour, last)
    return True


# What they say


def load(streams: Iterable[TokenStream], first: int, last: int) -> list[Stream]:
    """These streams, each with all its segments that touch the hours from first to last."""
    by_pk = {stream.pk: stream for stream in streams}
    hours: dict[int, list[tuple[Any, list[int]]]] = defaultdict(list)
    wanted: dict[str, Any] = {
        "streams": list(by_pk),
        "first": datetime_of_hour(first),
        "last": datetime_of_hour(last),
    }
    with connection.cursor() as cursor:
        cursor.execute(_AROUND, wanted)
        for stream_id, hour, numbers in cursor.fetchall():
            hours[stream_id].append((hour, numbers))
    return [
        _seen(by_pk[pk], list(_touching(_segments(by_pk[pk], sorted(found)), first, last)))
        for pk, found in hours.items()
    ]


def _segments(
    stream: TokenStream, hours: Collection[tuple[Any, Sequence[int]]]
) -> Iterable[Segment]:
    if not stream.is_cumulative:
        return sorted({point for _, numbers in hours for point in gaps.points(numbers)})
    found = [reading for _, numbers in hours for reading in gaps.readings(numbers)]
    return gaps.between(found, stream.started_unix_ns)


def _touching(segments: Iterable[Segment], first: int, last: int) -> Iterator[Segment]:
    for segment in segments:
        if segment.hours.start <= last and segment.hours.stop > first:
            yield segment


def _seen(stream: TokenStream, segments: Sequence[Segment]) -> Stream:
    return Stream(
        pk=stream.pk,
        process=stream.process,
        unit=(stream.key_id, stream.scope, stream.family),
        meter=Meter(stream.meter),
        models=frozenset(stream.models_said),
        service=(stream.service_name, stream.environment),
        account=(stream.source_id, stream.offering_id),
        segments=segments,
    )


def settled_before() -> datetime:
    """Of hours before this one, nothing that is still taken changes what is counted."""
    return timezone.now() - timedelta(days=settings.RETENTION_DAYS + 1)


def forget_old() -> None:
    """Delete what told of settled hours. What is counted of them stays."""
    edge = settled_before() - timedelta(days=1)  # a segment may reach into the hours before
    organizations = TokenStream.objects.order_by().values_list("organization_id", flat=True)
    for organization_id in organizations.distinct():
        _forget_old(organization_id, edge)
    SpannedHour.objects.filter(hour__lt=edge).delete()


def _forget_old(organization_id: int, edge: datetime) -> None:
    """Under ingest's lock: a stream that was silent for long may speak again at this moment."""
    with transaction.atomic(), connection.cursor() as cursor:
        lock_ingest(organization_id)
        cursor.execute(_FORGET, {"edge": edge, "organization_id": organization_id})
        TokenStream.objects.filter(organization_id=organization_id, last_hour__lt=edge).delete()
