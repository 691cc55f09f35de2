"""In which hours spans were sent, of which services and models: what metrics are not counted beside.

kinds       what a body's spans say of that and is not known to be kept; costs a set's look-up per span
keep        keeps it, and says what of it is new
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from django.db import connection, transaction

from collectors.observation import Observation
from costwatch.attribution.alike import HOUR_MICROS
from costwatch.attribution.copying import datetime_of_hour, hours_of
from costwatch.attribution.dimensions import bounded
from costwatch.attribution.gaps import model_key
from costwatch.attribution.spans import Rows
from costwatch.domain.allocation import HOUR_NS

_LONGEST_HOURS = 24  # a call that seems to take longer has a wrong clock
_CACHE_LIMIT = 100_000
_KEEP = """
INSERT INTO attribution_spannedhour (organization_id, hour, service_name, environment, model, vantage)
SELECT %(organization_id)s, said.*
  FROM unnest(%(hours)s::timestamptz[], %(services)s::text[], %(environments)s::text[], %(models)s::text[],
              %(vantages)s::text[]) AS said
ON CONFLICT DO NOTHING RETURNING hour, service_name, environment, model, vantage
"""

Kind = tuple[int, int, int]  # profile, first and last hour since 1970


class Spanned(NamedTuple):
    """A row of SpannedHour, with the hour since 1970."""

    hour: int
    service_name: str
    environment: str
    model: str
    vantage: str


_kept: set[Kind] = set()


def kinds(rows: Rows) -> dict[Kind, Observation]:
    """One span of each kind of call and hours that is not known to be kept. A wrapper is no call."""
    places = {
        (known.profile_id, begun_micros // HOUR_MICROS, ended_unix_ns // HOUR_NS): place
        for place, (known, begun_micros, ended_unix_ns) in enumerate(
            zip(rows.known, rows.begun_micros, rows.ended_unix_ns, strict=True)
        )
        if known is not None and ended_unix_ns is not None
    }
    seen = {kind: rows.row(places[kind]).observation for kind in places.keys() - _kept}
    return {kind: one for kind, one in seen.items() if one is not None and not one.is_wrapper}


def keep(organization_id: int, found: Mapping[Kind, Observation]) -> list[Spanned]:
    """Keep the hours of these calls; returns those that were not kept before."""
    if not found:
        return []
    transaction.on_commit(partial(_remember, found.keys()))
    said = {row for kind, seen in found.items() for row in _rows(organization_id, kind, seen)}
    hours, services, environments, models, vantages = zip(*sorted(said), strict=True)
    columns: dict[str, Any] = {
        "organization_id": organization_id,
        "hours": [datetime_of_hour(hour) for hour in hours],
        "services": list(services),
        "environments": list(environments),
        "models": list(models),
        "vantages": list(vantages),
    }
    with connection.cursor() as cursor:
        cursor.execute(_KEEP, columns)
        return [Spanned(hours_of(hour), *rest) for hour, *rest in cursor.fetchall()]


def _rows(organization_id: int, kind: Kind, seen: Observation) -> Iterable[Spanned]:
    _, first, last = kind
    names = ("service_name", "environment", "request_model", "response_model")
    # As sources and offerings name them, and as token_streams.py keeps those of metrics.
    said = bounded(organization_id, {name: getattr(seen, name)[:255] for name in names})
    service = (said["service_name"], said["environment"])
    for hour in range(first, min(last, first + _LONGEST_HOURS) + 1):
        for model in _models(said["request_model"], said["response_model"]):
            yield Spanned(hour, *service, model, seen.vantage.value)


def _models(*names: str) -> set[str]:
    return {model_key(name) for name in names if name} or {""}


def _remember(found: Collection[Kind]) -> None:
    if len(_kept) >= _CACHE_LIMIT:
        _kept.clear()
    _kept.update(found)


def forget() -> None:
    """For tests, which drop rows that a running service never drops."""
    _kept.clear()
