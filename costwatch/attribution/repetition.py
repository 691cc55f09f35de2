"""How much of what is asked was asked before, from the keyed hashes that clients send: no text is needed for it.

A request is repeated where the same one was asked earlier in the period: a response cache might have answered, surely where
it is deterministic. A prefix is repeated where an earlier request's prompt began with the same bytes and went to the same
model, to one of fingerprints.BOUNDARIES: so the sum is what a prefix cache that forgets nothing would have saved, rounded down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from django.db import connection

from collectors.fingerprints import BOUNDARIES, PREFIX_HASH_CHARACTERS
from costwatch.accounts.models import Organization
from costwatch.attribution.models import Profile
from costwatch.domain.periods import Period

MOST_CALLS = (
    100_000  # the latest, by an index of their own: no more rows are read, however long the period
)

_ASKED = """
WITH asked AS MATERIALIZED (
    SELECT span_key, started_at, profile_id, request_hash, prefix_hashes, coalesce(prompt_bytes, 0) AS prompt_bytes,
           coalesce(facts->>'response_model', facts->>'request_model') AS model
      FROM attribution_span AS span JOIN attribution_profile AS profile ON profile.id = profile_id
     WHERE span.organization_id = %(organization_id)s AND started_at >= %(start)s AND started_at < %(end)s
       AND request_hash IS NOT NULL AND NOT wraps
     ORDER BY started_at DESC, span_key
     LIMIT %(most)s),
known AS (
    SELECT span_key, row_number() OVER (PARTITION BY request_hash ORDER BY started_at, span_key) > 1 AS repeated
      FROM asked),
prefixes AS (
    SELECT span_key, place,
           row_number() OVER (PARTITION BY model, place, substr(prefix_hashes, (place - 1) * %(width)s + 1, %(width)s)
                              ORDER BY started_at, span_key) > 1 AS repeated
      FROM asked CROSS JOIN generate_series(1, length(prefix_hashes) / %(width)s) AS place),
shared AS (
    SELECT span_key, (%(boundaries)s::bigint[])[max(place)] AS prefix_bytes
      FROM prefixes WHERE repeated GROUP BY span_key)
SELECT profile_id, count(*), count(*) FILTER (WHERE repeated), sum(prompt_bytes), coalesce(sum(prefix_bytes), 0)
  FROM asked JOIN known USING (span_key) LEFT JOIN shared USING (span_key)
 GROUP BY profile_id
"""


@dataclass(slots=True)
class Repetition:
    """Of one feature of one service, and one model, the calls whose requests were hashed."""

    service: str
    feature: str
    model: str
    calls: int = 0
    repeated_calls: int = 0
    repeated_deterministic_calls: int = 0
    prompt_bytes: int = 0
    repeated_prefix_bytes: int = 0  # of prompt_bytes, those that earlier prompts began with


def repetition(
    organization: Organization, period: Period, *, most_calls: int = MOST_CALLS
) -> Sequence[Repetition]:
    """What repeats, largest prompts first. Of more than most_calls the latest are looked at."""
    rows = _asked(organization, period, most_calls)
    facts = dict(
        Profile.objects.filter(
            organization=organization, pk__in=[profile_id for profile_id, *_ in rows]
        ).values_list("pk", "facts")
    )
    found: dict[tuple[str, str, str], Repetition] = {}
    for profile_id, calls, repeated, prompt_bytes, prefix_bytes in rows:
        about = _about(facts[profile_id])
        one = found.setdefault(about, Repetition(*about))
        one.calls += calls
        one.repeated_calls += repeated
        if facts[profile_id].get("request_deterministic"):
            one.repeated_deterministic_calls += repeated
        one.prompt_bytes += int(prompt_bytes)
        one.repeated_prefix_bytes += int(prefix_bytes)
    return sorted(found.values(), key=attrgetter("prompt_bytes"), reverse=True)


def _asked(organization: Organization, period: Period, most_calls: int) -> list[tuple[Any, ...]]:
    search: dict[str, Any] = {
        "organization_id": organization.pk,
        "start": period.start,
        "end": period.end,
        "most": most_calls,
        "width": PREFIX_HASH_CHARACTERS,
        "boundaries": list(BOUNDARIES),
    }
    with connection.cursor() as cursor:
        cursor.execute(_ASKED, search)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def _about(facts: dict[str, Any]) -> tuple[str, str, str]:
    tags = facts.get("resource_tags", {}) | facts.get("tags", {})
    model = facts.get("response_model") or facts.get("request_model", "")
    return facts.get("service_name", ""), tags.get("feature", ""), model
