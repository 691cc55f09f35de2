"""Single requests, from one or few days of the ledger. Each read is scoped to one organization.

page      those of a period, latest first
detail    one of them, with everybody's view of it
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery

from collectors.observation import Observation, Tags
from costwatch.accounts.models import Organization, Team
from costwatch.attribution import family
from costwatch.attribution.copying import micros_of
from costwatch.attribution.dimensions import OTHER
from costwatch.attribution.family import Told
from costwatch.attribution.merge import Seen, merge, outermost_first, tags_of
from costwatch.attribution.models import Entry, SourceTeam
from costwatch.domain.periods import Period

MAX_CALLS = 1000


@dataclass(frozen=True, slots=True)
class Call:
    """One inference request. None is unknown, in every field."""

    call_id: UUID
    started_at: datetime
    duration_seconds: float | None
    team_id: int | None
    team: str | None  # None: unattributed
    feature: str | None
    customer: str | None
    user: str | None
    session: str | None
    source_id: int
    source: str
    provider: str | None
    request_model: str | None
    response_model: str | None
    response_id: str | None
    streaming: bool | None
    status: str  # "ok", or what went wrong
    input_tokens: int | None
    cache_read_input_tokens: int | None
    cache_write_input_tokens: int | None
    output_tokens: int | None
    reasoning_output_tokens: int | None
    usage_provenance: str
    device_seconds: float | None
    time_to_first_token_seconds: float | None
    time_per_output_token_seconds: float | None
    queue_seconds: float | None
    observations: int
    entry: Entry  # the ledger row in force, which pricing reads


@dataclass(frozen=True, slots=True)
class CallPage:
    calls: list[Call]
    next_cursor: str  # empty: that was all


@dataclass(frozen=True, slots=True)
class CallDetail:
    call: Call
    observations: list[dict[str, Any]]  # fields of Observation, and wraps; client first
    payer: str  # why this team pays
    revisions: int  # how often the ledger's row was written


class BadCursor(ValueError):
    """A cursor that page() did not give."""


def page(
    organization: Organization,
    period: Period,
    *,
    team_ids: Collection[int] | None = None,
    unattributed: bool = False,
    model: str = "",
    feature: str = "",
    cursor: str = "",
    limit: int = 100,
) -> CallPage:
    """The calls that began in a period, latest first, one page.

    team_ids       of the teams that pay; None: everybody, the unattributed included.
    unattributed   what nobody pays for, beside what team_ids pay if there are any.
    cursor         of the page before. Raises BadCursor.
    """
    limit = max(1, min(limit, MAX_CALLS))
    entries = _in_force(organization).filter(
        started_at__gte=period.start, started_at__lt=period.end
    )
    if unattributed:
        entries = entries.filter(Q(payer_id=None) | Q(payer_id__in=list(team_ids or ())))
    elif team_ids is not None:
        entries = entries.filter(payer_id__in=list(team_ids))
    if model:
        entries = entries.filter(
            Q(offering__response_model=model)
            | Q(offering__response_model="", offering__request_model=model)
        )
    if feature:
        entries = entries.filter(source__feature=feature)
    if cursor:
        at, call_id = _position(cursor)
        entries = entries.filter(
            Q(started_at__lt=at) | Q(started_at=at, call_id__lt=call_id), started_at__lte=at
        )
    found = list(entries.order_by("-started_at", "-call_id")[: limit + 1])
    shown = found[:limit]
    return CallPage(_calls(organization, shown), _cursor(shown[-1]) if found[limit:] else "")


def detail(organization: Organization, call_id: UUID) -> CallDetail | None:
    """One call with everybody's view of it; None where this organization has no such call."""
    entry = _in_force(organization).filter(call_id=call_id).order_by("-started_at").first()
    if entry is None:
        return None
    [found] = _calls(organization, [entry])
    [told] = _told(organization, [entry])
    seen = outermost_first(told.seen)
    return CallDetail(
        call=found,
        observations=[{**asdict(one.observation), "wraps": one.wraps} for one in seen],
        payer=_payer(entry),
        revisions=entry.revision,
    )


def _in_force(organization: Organization) -> QuerySet[Any]:
    """Ledger rows that count now, with the id of the team that pays as payer_id."""
    reversal = Entry.objects.filter(
        organization=organization,
        call_id=OuterRef("call_id"),
        started_at=OuterRef("started_at"),
        revision=OuterRef("revision"),
        sign=-1,
    )
    payer = _payers_at(OuterRef("source_id"), OuterRef("started_at"))
    return (
        Entry.objects.filter(organization=organization, sign=1)
        .filter(~Exists(reversal))
        .select_related("source", "offering")
        .annotate(payer_id=Subquery(payer.values("team_id")[:1]))
    )


def _payers_at(source_id: Any, moment: Any) -> QuerySet[SourceTeam]:
    # Edges of rules are whole hours, so the moment decides as its hour would.
    return SourceTeam.objects.filter(
        Q(valid_from=None) | Q(valid_from__lte=moment),
        Q(valid_until=None) | Q(valid_until__gt=moment),
        source_id=source_id,
    )


def _payer(entry: Entry) -> str:
    payer = _payers_at(entry.source_id, entry.started_at).select_related("rule").first()
    if payer is None:
        return "no rule matches"
    return f"rule {payer.rule}" if payer.rule else payer.reason


def _calls(organization: Organization, entries: Sequence[Entry]) -> list[Call]:
    if not entries:
        return []
    teams = dict(Team.objects.filter(organization=organization).values_list("pk", "name"))
    return [
        _call(entry, told.seen, told.inherited, teams)
        for entry, told in zip(entries, _told(organization, entries), strict=True)
    ]


def _told(organization: Organization, entries: Sequence[Entry]) -> list[Told]:
    calls = [(entry.call_id.bytes, micros_of(entry.started_at)) for entry in entries]
    found = family.told(organization.pk, calls)
    return [told or Told(call, (), (), ()) for (call, _), told in zip(calls, found, strict=True)]


def _call(
    entry: Any, seen: Iterable[Seen], inherited: Sequence[Tags], teams: dict[int, str]
) -> Call:
    outer = outermost_first([one for one in seen if not one.wraps])
    counted = [one.observation for one in outer]
    tags = tags_of(outer, inherited)
    team_id = entry.payer_id
    return Call(
        call_id=entry.call_id,
        started_at=entry.started_at,
        duration_seconds=_seconds(entry.duration_ns),
        team_id=team_id,
        team=teams.get(team_id) if team_id is not None else None,
        user=tags.user,
        session=tags.session,
        source_id=entry.source_id,
        source=str(entry.source),
        response_id=next((o.response_id for o in counted if o.response_id), None),
        streaming=next((o.streaming for o in counted if o.streaming is not None), None),
        status=next((o.error_type for o in counted if o.error_type), "failed")
        if entry.failed
        else "ok",
        input_tokens=entry.input_tokens,
        cache_read_input_tokens=entry.cache_read_input_tokens,
        cache_write_input_tokens=entry.cache_write_input_tokens,
        output_tokens=entry.output_tokens,
        reasoning_output_tokens=entry.reasoning_output_tokens,
        usage_provenance=_provenance(entry, counted),
        device_seconds=_seconds(entry.device_ns),
        time_to_first_token_seconds=_seconds(entry.time_to_first_token_ns),
        time_per_output_token_seconds=_seconds(entry.time_per_output_token_ns),
        queue_seconds=_seconds(entry.queue_ns),
        observations=len(counted),
        entry=entry,
        **_names(entry, outer, inherited),
    )


_NAMES_OF_SOURCE = ("feature", "customer")
_NAMES_OF_OFFERING = ("provider", "request_model", "response_model")


def _names(entry: Entry, counted: Sequence[Seen], inherited: Sequence[Tags]) -> dict[str, Any]:
    """What the call is called; as it was sent, where its source or offering says OTHER."""
    kept = {name: getattr(entry.source, name) for name in _NAMES_OF_SOURCE}
    kept |= {name: getattr(entry.offering, name) for name in _NAMES_OF_OFFERING}
    if OTHER in kept.values() and (merged := merge(counted, inherited)) is not None:
        said = asdict(merged.source) | asdict(merged.offering)
        kept = {name: said[name] if kept[name] == OTHER else kept[name] for name in kept}
    return {name: value or None for name, value in kept.items()}


def _provenance(entry: Entry, counted: Sequence[Observation]) -> str:
    if not entry.usage_known:
        return "absent"
    reported = any(o.provenance == "reported" for o in counted)
    return "reported" if reported else "estimated"


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


def _cursor(entry: Entry) -> str:
    said = f"{entry.started_at.isoformat()} {entry.call_id}"
    return base64.urlsafe_b64encode(said.encode()).decode()


def _position(cursor: str) -> tuple[datetime, UUID]:
    try:
        at, call_id = base64.urlsafe_b64decode(cursor).decode().split(" ")
        return datetime.fromisoformat(at).astimezone(UTC), UUID(call_id)
    except (binascii.Error, ValueError, OverflowError) as error:
        raise BadCursor(f"cursor {cursor!r}: expected the next_cursor of a page") from error
