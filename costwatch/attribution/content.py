"""What was asked and answered, of organizations that chose to store it.

    is_chosen       whether an organization stores it: asked for each body
    set_retention   turns it on, off, or changes for how many days
    kept_from       the beginning of the oldest call whose content is stored
    keep            the content of a body's calls
    of_observations reads it again
    delete_past     deletes what is past, in small steps

Content goes to Postgres by binary COPY and in no other way: a statement that is slow or fails is written into
Postgres' log, and with it, were content a part of it, what people asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.utils import timezone
from psycopg.types.json import Jsonb

from collectors.contents import Part, SpanContent
from collectors.observation import Decoded
from costwatch.accounts.models import MOST_CONTENT_DAYS, Organization
from costwatch.attribution import partitions
from costwatch.attribution.copying import datetime_of
from costwatch.attribution.identity import span_key
from costwatch.attribution.models import Content

MOST_BYTES = 256 * 1024  # of one span's texts
MOST_PARTS = 1000
_FIRST_PARTS = 100  # system prompts stand there; of the others the latest are kept
_LONGEST_BY = 64  # characters of a role or an attribute's name

MOST_SHOWN = 20  # observations of one call

_AHEAD = timedelta(hours=1)  # as far as ingest takes calls of the future
_ROWS_AT_ONCE = 500
_STEPS = 100
_DAY = timedelta(days=1)

_KEPT = """
SELECT wanted.started_at, wanted.span_key
  FROM unnest(%(started_at)s::timestamptz[], %(span_keys)s::uuid[]) AS wanted (started_at, span_key)
 CROSS JOIN LATERAL (
       SELECT FROM attribution_content
        WHERE organization_id = %(organization_id)s AND started_at = wanted.started_at AND span_key = wanted.span_key
       ) AS kept
"""
_COPY = """
COPY attribution_content (organization_id, started_at, span_key, parts) FROM STDIN (FORMAT BINARY)
"""
_COPIED = ["int8", "timestamptz", "uuid", "jsonb"]
# Within one day, so within one partition: a ctid means one row.
_DELETE = """
DELETE FROM attribution_content
 WHERE organization_id = %(organization_id)s AND started_at >= %(start)s AND started_at < %(end)s
   AND ctid = ANY(ARRAY(
       SELECT ctid FROM attribution_content
        WHERE organization_id = %(organization_id)s AND started_at >= %(start)s AND started_at < %(end)s
        LIMIT %(rows)s))
"""


_REMEMBERED_SECONDS = 2.0
_chosen: tuple[float, frozenset[int]] = (-math.inf, frozenset())  # when asked for, and by whom


class NotStored(RuntimeError):
    """Postgres can't take this content. Its own words, which may hold some of it, are left out."""


Place = tuple[datetime, UUID]  # where a span's content stands: its beginning and its key


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as it was stored: without the bytes at its end that there was no room for."""

    by: str
    text: str
    left_out_bytes: int


# The setting


def is_chosen(organization_id: int, now_seconds: float) -> bool:
    """Whether an organization stores content, as of the last two seconds: most do not, and pay nothing for who does.

    Who writes asks again, so of one that turned it off nothing more is stored. Moments are of one monotonic clock.
    """
    global _chosen
    if now_seconds - _chosen[0] > _REMEMBERED_SECONDS:
        chosen = Organization.objects.exclude(content_retention_days=None)
        _chosen = now_seconds, frozenset(chosen.values_list("pk", flat=True))
    return organization_id in _chosen[1]


def forget_chosen() -> None:
    """What this process remembers is asked for again."""
    global _chosen
    _chosen = -math.inf, frozenset()


def set_retention(organization_id: int, days: int | None) -> tuple[int | None, int | None]:
    """Store content for so many days from now on; None: store none. Returns the days before and now.

    Of calls that began before it was turned on nothing is stored, however late they come: who sent them was told
    that it is not. What is past stays in its table until delete_past, and is shown to nobody.
    """
    with transaction.atomic():
        organization = _locked(organization_id)
        before = organization.content_retention_days
        if days != before:
            organization.content_retention_days = days
            if days is None or before is None:
                organization.content_since = None if days is None else timezone.now()
            organization.save(update_fields=["content_retention_days", "content_since"])
    forget_chosen()
    return before, days


def kept_from(organization: Organization) -> datetime | None:
    """When the oldest calls began whose content may be stored; None: no content is."""
    days, since = organization.content_retention_days, organization.content_since
    if days is None or since is None:
        return None
    # Content does not outlive its call.
    kept = timezone.now() - timedelta(days=min(days, settings.RETENTION_DAYS))
    return max(kept, since)


def _locked(organization_id: int) -> Organization:
    """The organization's row, which nobody else locks or changes until the transaction ends."""
    return Organization.objects.select_for_update(no_key=True).get(pk=organization_id)


# Written


def keep(organization_id: int, decoded: Decoded, said: Iterable[SpanContent]) -> None:
    """Store what was said in a body's calls, once. All of it is durable when this returns.

    Raises OperationalError and InterfaceError where Postgres can't take it now, and NotStored; then nothing was
    written.
    """
    found = _within(Organization.objects.get(pk=organization_id), _rows(decoded, said))
    if not found:
        return
    partitions.ensure_days({started_at.date() for started_at, _ in found})
    try:
        with transaction.atomic():
            _write(organization_id, found)
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None)
        raise NotStored(
            f"Postgres can't take this content: SQLSTATE {state}; look it up in its manual"
        ) from None


def _write(organization_id: int, found: Mapping[Place, Jsonb]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = %s", [f"{settings.OTLP_WAIT_SECONDS}s"])
        # Who turns it off waits for this, and what comes after that sees it: so nothing is written behind a deletion.
        found = _within(_locked(organization_id), found)
        kept = _kept(organization_id, found)
        with connection.wrap_database_errors, cursor.copy(_COPY) as copy:
            copy.set_types(_COPIED)
            for place in sorted(found.keys() - kept):
                copy.write_row((organization_id, *place, found[place]))


def _rows(decoded: Decoded, said: Iterable[SpanContent]) -> dict[Place, Jsonb]:
    """Content by where it will stand. Of spans around calls there is none: they repeat what is in the calls."""
    calls = {(one.trace_id, one.span_id) for one in decoded.observations if not one.is_wrapper}
    rows: dict[Place, Jsonb] = {}
    for one in said:
        if (one.trace_id, one.span_id) in calls:
            place = place_of(one.trace_id, one.span_id, one.start_unix_ns)
            rows.setdefault(place, _as_stored(one.parts))
    return rows


def place_of(trace_id: bytes, span_id: bytes, start_unix_ns: int) -> Place:
    return datetime_of(start_unix_ns // 1000), UUID(bytes=span_key(trace_id, span_id))


def _as_stored(parts: Sequence[Part]) -> Jsonb:
    stored = [[part.by, part.text, part.left_out_bytes] for part in bounded(parts, MOST_BYTES)]
    return Jsonb(stored, dumps=partial(json.dumps, ensure_ascii=False))


def _within(organization: Organization, rows: Mapping[Place, Jsonb]) -> dict[Place, Jsonb]:
    first, last = kept_from(organization), timezone.now() + _AHEAD
    if first is None:
        return {}
    return {place: row for place, row in rows.items() if first <= place[0] <= last}


def _kept(organization_id: int, places: Collection[Place]) -> set[Place]:
    with connection.cursor() as cursor:
        cursor.execute(
            _KEPT,
            {
                "organization_id": organization_id,
                "started_at": [started_at for started_at, _ in places],
                "span_keys": [key for _, key in places],
            },
        )
        return set(cursor.fetchall())


def bounded(parts: Sequence[Part], most_bytes: int) -> list[StoredPart]:
    """The parts in texts that Postgres holds, most_bytes together at most in UTF-8.

    Where there is no room for all, each gets the same share and the short ones stay whole: after a long prompt there
    is still room for its answer. Of more than MOST_PARTS those in the middle are left out; the part after them says
    by how many bytes.
    """
    texts = [(_storable(by[:_LONGEST_BY]), _storable(text).encode()) for by, text in parts]
    left_out_bytes = 0
    if len(texts) > MOST_PARTS:
        last = len(texts) - (MOST_PARTS - _FIRST_PARTS)
        left_out_bytes = sum(len(text) for _, text in texts[_FIRST_PARTS:last])
        texts = texts[:_FIRST_PARTS] + texts[last:]
    share_bytes = _share([len(text) for _, text in texts], most_bytes)
    stored = [_cut(by, text, share_bytes) for by, text in texts]
    if left_out_bytes:
        middle = StoredPart("…", "", left_out_bytes)
        stored.insert(_FIRST_PARTS, middle)
    return stored


def _share(sizes: Sequence[int], most: int) -> int:
    """The largest share of which all may take as much as they need, and together take at most this much."""
    left = most
    for taken, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - taken)
        if size > share:
            return share
        left -= size
    return most


def _cut(by: str, text: bytes, most_bytes: int) -> StoredPart:
    kept = text[:most_bytes].decode("utf-8", "ignore")
    return StoredPart(by, kept, len(text) - len(kept.encode()))


def _storable(text: str) -> str:
    """Without what Postgres holds in no text: NUL, and halves of characters."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


# Read


def of_observations(
    organization: Organization, observations: Iterable[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], list[StoredPart]]]:
    """The observations of a call (calls.CallDetail) that have content, with it, in their order.

    Looked for are the first MOST_SHOWN of them.
    """
    first = kept_from(organization)
    if first is None:
        return []
    places = [
        (one, place_of(one["trace_id"], one["span_id"], one["start_unix_ns"]))
        for one in islice(observations, MOST_SHOWN)
    ]
    stored = Content.objects.filter(
        organization=organization,
        started_at__in={at for _, (at, _) in places if at >= first},
        span_key__in={key for _, (_, key) in places},
    )
    parts = {(row.started_at, row.span_key): row.parts for row in stored}
    return [
        (one, [StoredPart(*part) for part in parts[place]])
        for one, place in places
        if place in parts
    ]


# Deleted


def delete_past(organization_id: int) -> bool:
    """Delete what is stored and should not be any more, oldest first; true where there may be more of it.

    Each step is a transaction of its own: nobody waits long, and what was deleted before a crash is deleted.
    """
    return all(_delete_some(organization_id) for _ in range(_STEPS))


def _delete_some(organization_id: int) -> bool:
    """False where nothing was left to delete."""
    organization = Organization.objects.get(pk=organization_id)
    end = kept_from(organization) or datetime.max.replace(tzinfo=UTC)
    past = Content.objects.filter(organization=organization, started_at__lt=end)
    oldest = past.order_by("started_at").values_list("started_at", flat=True).first()
    if oldest is None:
        return False
    day = oldest.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor:
        cursor.execute(
            _DELETE,
            {
                "organization_id": organization_id,
                "start": day,
                "end": min(day + _DAY, end),
                "rows": _ROWS_AT_ONCE,
            },
        )
    return True


def drop_old_days() -> None:
    """Drop the days that no organization can have content of."""
    oldest = timezone.now() - timedelta(days=MOST_CONTENT_DAYS + 2)
    partitions.drop_before("attribution_content", oldest.date())
