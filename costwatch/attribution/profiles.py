"""What observations have in common, kept once: thousands of calls differ only in numbers, ids and people.

    known       the profile of an observation, and the source and offering that follow from it alone
    NUMBERS     what each observation says for itself, in columns of Span
    rebuilt     the observation of a row

A row and its profile together say exactly what the span said.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from operator import attrgetter
from typing import Any
from uuid import UUID

from django.db import connection

from collectors.dialects.prototypes import Prototype
from collectors.dialects.sheets import Sheet
from collectors.observation import Observation, Provenance, Tags, Usage, Vantage
from costwatch.accounts.models import IngestKey
from costwatch.attribution.dimensions import OTHER, offering_id, overflown, source_id
from costwatch.attribution.merge import Seen, offering_of, source_of
from costwatch.attribution.models import Profile

_USAGE = tuple(field.name for field in fields(Usage))
_TIMES_AND_DEVICE = (
    "time_to_first_token_ns",
    "time_per_output_token_ns",
    "queue_ns",
    "prefill_ns",
    "decode_ns",
    "device_ns",
    "device_ns_marginal",
    "device_ns_alone",
    "energy_uj",
    "prefix_repeated_tokens",
    "prompt_bytes",
)
# Columns of Span that hold an observation's own numbers, in order, and how they are read from it.
NUMBERS = (*_USAGE, *_TIMES_AND_DEVICE)
numbers_of = attrgetter(*(f"usage.{name}" for name in _USAGE), *_TIMES_AND_DEVICE)

_OF_THE_SPAN = frozenset(
    {
        "trace_id",
        "span_id",
        "parent_span_id",
        "start_unix_ns",
        "end_unix_ns",
        "response_id",
        "request_hash",
        "prefix_hashes",
    }
)
_NESTED = frozenset({"tags", "resource_tags", "usage"})
_COMMON = tuple(
    field.name
    for field in fields(Observation)
    if field.name not in _OF_THE_SPAN | _NESTED | set(_TIMES_AND_DEVICE)
)
_TAGS = ("team", "feature", "customer")  # of the span's own tags; who asked is not common
# What of an observation makes its source and offering, by the columns' names: only so many values of each are common.
_DIMENSIONS = {
    "team_tag": "team",
    **{
        name: name
        for name in (
            "feature",
            "customer",
            "service_name",
            "environment",
            "provider",
            "request_model",
            "response_model",
        )
    },
    **{name: name for name in ("service_tier", "device_type", "allocation_method")},
}
_ALL_TAGS = frozenset(field.name for field in fields(Tags))
_common_of = attrgetter(*_COMMON, *(f"tags.{name}" for name in _TAGS), "resource_tags")

_CACHE_LIMIT = 50_000
_ALIKE_LIMIT = 10_000  # each keeps a prototype
_PROFILES_ARE_FRESH_SECONDS = 60.0

_Kind = tuple[tuple[int, str], Prototype, str | None]  # key and its environment, customer


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A profile, and what it makes of a call that nothing else is known about."""

    profile_id: int
    source_id: int
    offering_id: int
    service: tuple[str, str]  # its name and environment
    failed: bool
    repeated: bool  # the request had been answered before
    raw: Mapping[str, str] | None = (
        None  # what the profile calls OTHER, by field of Tags or Observation
    )


@dataclass(frozen=True, slots=True)
class _Common:
    """A profile as it is read back."""

    key_id: int
    fields: Mapping[str, Any]
    tags: Tags


_known: dict[tuple[int, tuple[Any, ...]], Known] = {}
_read: dict[int, _Common] = {}
_alike: dict[_Kind, Known] = {}
# By organization: the newest profile that was looked at, when, and what was found.
_several: dict[int, tuple[int, float, frozenset[tuple[str, str]]]] = {}


def known(key: IngestKey, observation: Observation) -> Known:
    """The profile of an observation that came with this key; made where it is the first of its kind."""
    common = _common_of(observation)
    found = _known.get((key.pk, common))
    if found is not None:
        return found
    lost = _overflown(key, observation)
    if lost:
        return replace(known(key, _with(observation, dict.fromkeys(lost, OTHER))), raw=lost)
    found = _make(key, observation, common)
    if len(_known) >= _CACHE_LIMIT:
        _known.clear()
    _known[key.pk, common] = found
    return found


def _overflown(key: IngestKey, observation: Observation) -> dict[str, str]:
    """What an observation says itself and is one value too many."""
    alone = [Seen(replace(observation, resource_tags=Tags()), key.pk, b"", wraps=False)]
    facts = source_of(alone, ()), offering_of(alone, alone)
    lost = (_DIMENSIONS[column] for column in overflown(key.organization_id, *facts))
    return {
        name: getattr(observation.tags if name in _TAGS else observation, name)
        for name in sorted(lost)
    }


def _with(observation: Observation, values: Mapping[str, str]) -> Observation:
    """The observation with other values of some fields, of its tags too."""
    of_tags = {name: value for name, value in values.items() if name in _ALL_TAGS}
    own: dict[str, Any] = {name: value for name, value in values.items() if name not in of_tags}
    return replace(observation, tags=replace(observation.tags, **of_tags), **own)


def _make(key: IngestKey, observation: Observation, common: Sequence[Any]) -> Known:
    facts = _facts(common)
    text = json.dumps(facts, sort_keys=True)
    profile, _ = Profile.objects.get_or_create(
        organization_id=key.organization_id,
        key=key,
        digest=UUID(bytes=blake2b(text.encode(), digest_size=16).digest()),
        defaults={"facts": facts},
    )
    alone = [Seen(observation, key.pk, b"", wraps=False)]
    return Known(
        profile.pk,
        source_id(key.organization_id, source_of(alone, ())),
        offering_id(key.organization_id, offering_of(alone, alone)),
        (observation.service_name, observation.environment),
        bool(observation.error_type),
        bool(observation.request_repeated),
    )


def in_environment(key: IngestKey, observation: Observation) -> Observation:
    """The observation, in the key's environment where it names none itself."""
    if observation.environment or not key.environment:
        return observation
    return replace(observation, environment=key.environment)


def known_alike(key: IngestKey, sheet: Sheet) -> list[Known]:
    """What is known of each row of a sheet. Rows of one prototype differ in nothing that a profile says."""
    global _alike
    of_key = (key.pk, key.environment)
    kinds = [
        (of_key, row.prototype, customer)
        for row, customer in zip(sheet.rows, sheet["customer"], strict=True)
    ]
    # Other threads share what is remembered, and may begin it anew at any moment.
    here: dict[_Kind, Known] = {}
    for kind, row in zip(kinds, sheet.rows, strict=True):
        if kind not in here:
            here[kind] = _alike.get(kind) or known(key, in_environment(key, row.observation()))
    if len(_alike) + len(here) > _ALIKE_LIMIT:
        _alike = {}
    _alike.update(here)
    return [here[kind] for kind in kinds]


def _facts(common: Sequence[Any]) -> dict[str, Any]:
    """JSON of what is neither unknown nor empty. False and zero are said."""
    *values, resource_tags = common
    plain, tags = values[: len(_COMMON)], values[len(_COMMON) :]
    said: dict[str, Any] = _said(zip(_COMMON, plain, strict=True))
    said["tags"] = _said(zip(_TAGS, tags, strict=True))
    said["resource_tags"] = said_tags(resource_tags)
    return _said(said.items())


def said_tags(tags: Tags) -> dict[str, str]:
    """The tags that say something, by name."""
    return _said((field.name, getattr(tags, field.name)) for field in fields(Tags))


def _said(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not None and value not in ("", {})}


def load(profile_ids: Iterable[int]) -> None:
    """Read these profiles at once, before rebuilt is asked for each."""
    global _read
    if len(_read) >= _CACHE_LIMIT:
        _read = {}
    missing = [pk for pk in set(profile_ids) if pk not in _read]
    for profile in Profile.objects.filter(pk__in=missing) if missing else ():
        _read[profile.pk] = _common_in(profile)


def _common_in(profile: Profile) -> _Common:
    facts = dict(profile.facts)
    tags = Tags(**facts.pop("tags", {}))
    known = {name: facts[name] for name in _COMMON if name in facts}
    known["resource_tags"] = Tags(**facts.get("resource_tags", {}))
    known["vantage"] = Vantage(known["vantage"])
    known["provenance"] = Provenance(known.get("provenance", Provenance.ABSENT))
    return _Common(profile.key_id, known, tags)


def _common_of_id(profile_id: int) -> _Common:
    """As it was loaded; another thread may have begun the memory anew since."""
    return _read.get(profile_id) or _common_in(Profile.objects.get(pk=profile_id))


def key_of(profile_id: int) -> int:
    """The id of the ingest key that a profile came with."""
    return _common_of_id(profile_id).key_id


def rebuilt(
    profile_id: int, numbers: Sequence[int | None], raw: Mapping[str, str], **own: Any
) -> Observation:
    """The observation that a row and its loaded profile were made from.

    numbers    in the order of NUMBERS.
    raw        what the profile does not say: who asked, and what it calls OTHER.
    own        what the span alone says: ids, times, response id.
    """
    common = _common_of_id(profile_id)
    usage = Usage(*numbers[: len(_USAGE)])
    rest: dict[str, Any] = dict(zip(_TIMES_AND_DEVICE, numbers[len(_USAGE) :], strict=True))
    seen = Observation(**common.fields, **rest, **own, usage=usage, tags=common.tags)
    return _with(seen, raw)


def watched_by_several(organization_id: int) -> frozenset[tuple[str, str]]:
    """Services, each with its environment, whose calls more than one kind of instrumentation sees."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT max(id) FROM attribution_profile")
        newest = cursor.fetchone()[0] or 0
    known_until, looked_at, several = _several.get(organization_id, (0, 0.0, frozenset()))
    # Now and then in any case: a profile may become visible after one with a larger id.
    if known_until == newest and time.monotonic() - looked_at < _PROFILES_ARE_FRESH_SECONDS:
        return several
    kinds: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for facts in Profile.objects.filter(organization_id=organization_id).values_list(
        "facts", flat=True
    ):
        if not facts.get("is_wrapper"):
            service = (facts.get("service_name", ""), facts.get("environment", ""))
            kinds[service].add((facts["dialect"], facts["vantage"]))
    several = frozenset(service for service, seen in kinds.items() if len(seen) > 1)
    _several[organization_id] = (newest, time.monotonic(), several)
    return several


def forget() -> None:
    """For tests, which drop rows that a running service never drops."""
    _known.clear()
    _read.clear()
    _alike.clear()
    _several.clear()
