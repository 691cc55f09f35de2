"""Sources and offerings: the few rows that every ledger entry points to.

Few also where a client sends a random value as its feature, its service's name or its model: an organization has only
so many values of each, and what comes after them is `other`. The raw value stays on the span.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction

from costwatch.attribution.assignment import assign_source
from costwatch.attribution.merge import OfferingFacts, SourceFacts
from costwatch.attribution.models import Offering, Source

# Ids of rows that are committed and never deleted, by organization and facts. Bounded: a sender of random tags
# would otherwise fill the memory.
_CACHE_LIMIT = 50_000
_ids: dict[tuple[int, SourceFacts | OfferingFacts], int] = {}


OTHER = "other"
_OF_SOURCE = tuple(field.name for field in fields(SourceFacts) if field.name != "key_id")
_OF_OFFERING = tuple(field.name for field in fields(OfferingFacts))

# By organization and field of Source or Offering: the values that have rows.
_values: dict[int, Mapping[str, set[str]]] = {}


def source_id(organization_id: int, facts: SourceFacts) -> int:
    return _id_of(Source, organization_id, facts)


def offering_id(organization_id: int, facts: OfferingFacts) -> int:
    return _id_of(Offering, organization_id, facts)


def overflown(organization_id: int, *facts: SourceFacts | OfferingFacts) -> set[str]:
    """The fields of which these name one value too many."""
    found: set[str] = set()
    for one in facts:
        said = _said(one)
        kept = bounded(organization_id, said)
        found |= {name for name, value in said.items() if kept[name] != value}
    return found


def bounded(organization_id: int, said: Mapping[str, str]) -> dict[str, str]:
    """The values of these fields, with OTHER for what would be one value too many."""
    values = _values.get(organization_id)
    if values is None:
        values = _values[organization_id] = _values_of(organization_id)
    return {name: _bounded(values[name], value) for name, value in said.items()}


def _values_of(organization_id: int) -> dict[str, set[str]]:
    named = [(Source, name) for name in _OF_SOURCE] + [(Offering, name) for name in _OF_OFFERING]
    return {
        name: set(
            model.objects.filter(organization_id=organization_id)
            .values_list(name, flat=True)
            .distinct()
        )
        for model, name in named
    }


def _bounded(values: set[str], value: str) -> str:
    if value in values or not value:
        return value
    if len(values) >= settings.MAX_TAG_VALUES:
        return OTHER
    values.add(value)
    return value


def _said(facts: SourceFacts | OfferingFacts) -> dict[str, str]:
    names = _OF_SOURCE if isinstance(facts, SourceFacts) else _OF_OFFERING
    return {name: getattr(facts, name) for name in names}


def _id_of(
    model: type[Source] | type[Offering], organization_id: int, facts: SourceFacts | OfferingFacts
) -> int:
    known = _ids.get((organization_id, facts))
    if known is not None:
        return known
    values: dict[str, Any] = dict(bounded(organization_id, _said(facts)))
    kept = replace(facts, **values)
    if kept != facts:
        return _id_of(model, organization_id, kept)
    said: dict[str, Any] = {"organization_id": organization_id, **asdict(facts)}
    row, made = model.objects.get_or_create(**said)
    if isinstance(row, Source) and made:
        assign_source(row)
    transaction.on_commit(partial(_remember, (organization_id, facts), row.pk))
    return row.pk


def _remember(key: tuple[int, SourceFacts | OfferingFacts], pk: int) -> None:
    if len(_ids) >= _CACHE_LIMIT:
        _ids.clear()
    _ids[key] = pk


def forget_ids() -> None:
    """For tests, which drop rows that a running service never drops."""
    _ids.clear()
    _values.clear()
