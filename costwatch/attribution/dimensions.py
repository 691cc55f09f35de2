"""Sources and offerings: the few rows that every ledger entry points to."""

from dataclasses import asdict
from functools import partial
from typing import Any

from django.db import transaction

from costwatch.attribution.assignment import assign_source
from costwatch.attribution.merge import OfferingFacts, SourceFacts
from costwatch.attribution.models import Offering, Source

# Ids of rows that are committed and never deleted, by organization and facts. Bounded: a sender of random tags
# would otherwise fill the memory.
_CACHE_LIMIT = 50_000
_ids: dict[tuple[int, SourceFacts | OfferingFacts], int] = {}


def source_id(organization_id: int, facts: SourceFacts) -> int:
    return _id_of(Source, organization_id, facts)


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
