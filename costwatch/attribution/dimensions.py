"""Sources and offerings: the few rows that every ledger entry points to.

Few also where a client sends a random value as its feature: an organization has only so many values of each tag, and
what comes after them is `other`. The raw value stays on the span.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
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
TAGS = ("team_tag", "feature", "customer")  # of Source

# By organization and tag: the values that have sources.
_values: dict[int, Mapping[str, set[str]]] = {}


def source_id(organization_id: int, facts: SourceFacts) -> int:
    known = _ids.get((organization_id, facts))
    if known is not None:
        return known
    kept: dict[str, Any] = bounded(organization_id, {tag: getattr(facts, tag) for tag in TAGS})
    return _id_of(Source, organization_id, replace(facts, **kept))


def bounded(organization_id: int, tags: Mapping[str, str]) -> dict[str, Any]:
    """The tags, with OTHER for what would be one value too many."""
    values = _values.get(organization_id)
    if values is None:
        rows = Source.objects.filter(organization_id=organization_id)
        values = {tag: set(rows.values_list(tag, flat=True).distinct()) for tag in TAGS}
        _values[organization_id] = values
    return {tag: _bounded(values[tag], value) for tag, value in tags.items()}


def _bounded(values: set[str], value: str) -> str:
    if value in values or not value:
        return value
    if len(values) >= settings.MAX_TAG_VALUES:
        return OTHER
    values.add(value)
    return value


def offering_id(organization_id: int, facts: OfferingFacts) -> int:
    return _id_of(Offering, organization_id, facts)


def _id_of(
    model: type[Source] | type[Offering], organization_id: int, facts: SourceFacts | OfferingFacts
) -> int:
    known = _ids.get((organization_id, facts))
    if known is not None:
        return known
    fields: dict[str, Any] = {"organization_id": organization_id, **asdict(facts)}
    row, made = model.objects.get_or_create(**fields)
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
