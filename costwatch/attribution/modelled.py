"""Device time of runtimes that do not measure it (vLLM, SGLang, TGI): modelled from when each call was in the model.

    mark           that an hour has to be modelled, again or for the first time
    due            hours that are over and marked
    model_hour     each call's share of the time in which its server worked for anybody, into the ledger

A server is what its telemetry names: a service in an environment, on the devices of its hw.id. It works while any call is in the
model, and each moment of that goes evenly to the calls that are (domain/sharing.py), so that no hour is shared out twice. How
much of an hour there is to share is in server_time.py. What it runs on is said by the attribute costwatch.device_type of its
spans or its resource; where nobody says that, nothing has a price by time, and nothing is modelled. Calls that say
their device time themselves are left alone.

A share depends on all calls around it: it is worked out when the hour is over, and again when something came late. What
changes is taken back and counted anew, as everything in the ledger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from costwatch.accounts.models import IngestKey
from costwatch.attribution import ledger
from costwatch.attribution.alike import QUANTITIES
from costwatch.attribution.copying import array, micros_of
from costwatch.attribution.dimensions import offering_id
from costwatch.attribution.ledger import STATE, LedgerRow, Place
from costwatch.attribution.locks import lock_ingest
from costwatch.attribution.merge import OfferingFacts
from costwatch.attribution.models import HourToModel, Offering
from costwatch.attribution.server_time import Server, keep_modelled, server_of, server_times
from costwatch.domain.allocation import HOUR_NS
from costwatch.domain.sharing import Interval, in_model_shares

MODELLED = "modelled"
_HOUR = timedelta(hours=1)
_PATIENCE = timedelta(minutes=15)  # for what is on its way when an hour is over
_LONGEST_NS = HOUR_NS  # of a call, waiting included; a longer one is not modelled
_OFFERING, _DEVICE_NS = STATE.index("offering_id"), STATE.index("device_ns")
assert QUANTITIES[_DEVICE_NS - STATE.index("input_tokens")] == "device_ns"

_MARK = """
INSERT INTO attribution_hourtomodel (organization_id, hour)
SELECT DISTINCT organization_id, hour FROM attribution_spannedhour
 WHERE organization_id = %(organization_id)s AND hour BETWEEN %(first)s AND %(last)s AND vantage = 'server'
ON CONFLICT DO NOTHING
"""
# No call is longer than an hour, so who is beside one of this hour's began within two hours of the hour's beginning.
_VIEWS = """
SELECT span.span_key, span.call_id, profile.key_id, facts->>'service_name', coalesce(facts->>'environment', ''),
       coalesce(facts->>'device_ids', ''), facts->>'device_type', span.started_at, span.start_rest_ns, span.duration_ns,
       coalesce(span.prefill_ns, 0) + span.decode_ns
  FROM attribution_span AS span JOIN attribution_profile AS profile ON profile.id = span.profile_id
 WHERE span.organization_id = %(organization_id)s
   AND span.started_at >= %(first)s AND span.started_at < %(last)s
   AND span.decode_ns IS NOT NULL AND span.device_ns IS NULL AND NOT span.wraps
   AND span.duration_ns <= %(longest_ns)s AND span.call_id IS NOT NULL AND facts->>'vantage' = 'server' AND facts->>'device_type' IS NOT NULL
 ORDER BY span.started_at, span.span_key
"""
_BEGUN = """
SELECT DISTINCT call_id, started_at FROM attribution_entry
 WHERE organization_id = %(organization_id)s AND call_id = ANY(%(calls)s::uuid[])
   AND started_at >= %(first)s AND started_at < %(last)s
"""


@dataclass(frozen=True, slots=True)
class _View:
    """A runtime's own view of a call."""

    call_id: bytes
    key_id: int
    server: Server
    device_type: str
    began_ns: int
    in_model: Interval

    def touches(self, hour: Interval) -> bool:
        """Whether it began in the hour, and waited for the next one perhaps, or was in the model in it."""
        return self.began_ns < hour.end_ns and self.in_model.end_ns > hour.start_ns


@dataclass(frozen=True, slots=True)
class _Modelled:
    """What a call had of its server's time."""

    key_id: int
    device_type: str
    device_ns: int


def mark(organization_id: int, first_hour: datetime, last_hour: datetime) -> None:
    """Calls that began in these hours changed: where runtimes were seen in them, or in the next one, they are to be modelled."""
    hours = {"first": first_hour, "last": last_hour + _HOUR}
    with connection.cursor() as cursor:
        cursor.execute(_MARK, {"organization_id": organization_id, **hours})


def due(now: datetime) -> list[tuple[int, datetime]]:
    """Organizations and marked hours that have been over for some time."""
    hours = HourToModel.objects.filter(hour__lte=now - _HOUR - _PATIENCE)
    return list(hours.order_by("hour", "organization_id").values_list("organization_id", "hour"))


def model_hour(organization_id: int, hour: datetime) -> int:
    """Bring the calls of an hour to their modelled device time; returns how many changed.

    Safe to run twice and beside itself, and beside new telemetry, which waits or is found the next time.
    """
    with transaction.atomic():
        lock_ingest(organization_id)
        HourToModel.objects.filter(organization_id=organization_id, hour=hour).delete()
        modelled = _modelled(organization_id, _views(organization_id, hour), hour)
        rows = _corrections(organization_id, hour, modelled) if modelled else {}
        keys = IngestKey.objects.in_bulk(rows)
        for key_id, corrections in rows.items():
            ledger.correct(keys[key_id], timezone.now(), corrections)
    return sum(row.sign == 1 for corrections in rows.values() for row in corrections)


def _views(organization_id: int, hour: datetime) -> list[_View]:
    times: dict[str, Any] = {"longest_ns": _LONGEST_NS, **_around(hour)}
    with connection.cursor() as cursor:
        cursor.execute(_VIEWS, {"organization_id": organization_id, **times})
        return [
            _View(
                call.bytes, key_id, server_of(service or "", environment, ids), kind, *_times(*said)
            )
            for _, call, key_id, service, environment, ids, kind, *said in cursor
        ]


def _times(
    started_at: datetime, rest_ns: int, duration_ns: int, in_model_ns: int
) -> tuple[int, Interval]:
    """When a call began, and when it was in the model: at its end, for it waits first."""
    began_ns = micros_of(started_at) * 1000 + rest_ns
    end_ns = began_ns + duration_ns
    return began_ns, Interval(max(began_ns, end_ns - in_model_ns), end_ns)


def _around(hour: datetime) -> dict[str, datetime]:
    return {"first": hour - 2 * _HOUR, "last": hour + 2 * _HOUR}


def _modelled(
    organization_id: int, views: Sequence[_View], hour: datetime
) -> dict[bytes, _Modelled]:
    """By call id, those that began or were in a model in this hour, with all of their time; and what the devices of
    their servers were used for in this hour is kept."""
    start_ns = micros_of(hour) * 1000
    this = Interval(start_ns, start_ns + HOUR_NS)
    by_server: dict[Server, list[_View]] = defaultdict(list)
    for view in views:
        by_server[view.server].append(view)
    shares = {
        server: in_model_shares([view.in_model for view in together])
        for server, together in by_server.items()
    }
    times = server_times(organization_id, shares)
    keep_modelled(organization_id, hour, times)
    found: dict[bytes, _Modelled] = {}
    for server, together in by_server.items():
        totals = times.of_calls(server, shares[server], len(together))
        for view, ns in zip(together, totals, strict=True):
            if view.touches(this):
                before = found.get(view.call_id)
                total_ns = ns + (before.device_ns if before else 0)
                found[view.call_id] = _Modelled(view.key_id, view.device_type, total_ns)
    return found


def _corrections(
    organization_id: int, hour: datetime, modelled: Mapping[bytes, _Modelled]
) -> dict[int, list[LedgerRow]]:
    """What brings the ledger to the modelled times, by the key whose telemetry said so."""
    held = ledger.in_force(organization_id, _places(organization_id, hour, modelled))
    known = Offering.objects.in_bulk(
        {now.state[_OFFERING] for now in held.values() if now.state is not None}
    )
    rows: dict[int, list[LedgerRow]] = defaultdict(list)
    for place, now in sorted(held.items()):
        if now.state is None:
            continue
        wanted = _state(now.state, modelled[place[0]], known[now.state[_OFFERING]])
        if wanted != now.state:
            rows[modelled[place[0]].key_id] += [
                LedgerRow(place, now.revision, -1, now.state),
                LedgerRow(place, now.revision + 1, 1, wanted),
            ]
    return rows


def _places(organization_id: int, hour: datetime, calls: Iterable[bytes]) -> Collection[Place]:
    with connection.cursor() as cursor:
        cursor.execute(
            _BEGUN, {"organization_id": organization_id, "calls": array(calls), **_around(hour)}
        )
        return {(call.bytes, micros_of(started_at)) for call, started_at in cursor}


def _state(state: ledger.State, modelled: _Modelled, offering: Offering) -> ledger.State:
    """The call's state with its modelled time; as it is where the time was measured."""
    if state[_DEVICE_NS] is not None and offering.allocation_method != MODELLED:
        return state
    facts = OfferingFacts(
        offering.provider,
        offering.request_model,
        offering.response_model,
        offering.service_tier,
        device_type=offering.device_type or modelled.device_type,
        allocation_method=MODELLED,
    )
    changed = list(state)
    changed[_OFFERING] = offering_id(offering.organization_id, facts)
    changed[_DEVICE_NS] = modelled.device_ns
    return tuple(changed)
