"""Who pays, as one span or one resource says it itself."""

from collections.abc import Mapping
from typing import Any

from collectors.dialects.objects import json_object
from collectors.dialects.table import METADATA, METADATA_NAMES, TAG_ITEMS
from collectors.dialects.values import clean
from collectors.observation import Tags

_FIELDS = ("team", "feature", "customer", "user", "session")
NO_TAGS = Tags()


def own_tags(found: Mapping[str, Any]) -> Tags:
    """The tags that one span or resource carries itself, whichever way it says them."""
    if not found:
        return NO_TAGS
    if METADATA not in found and TAG_ITEMS not in found:
        return Tags(**found)
    tags = {field: found[field] for field in _FIELDS if field in found}
    if METADATA in found:
        _add_metadata(tags, json_object(found[METADATA]))
    for item in found.get(TAG_ITEMS, ()):
        name, colon, value = item.partition(":")
        if colon and name in _FIELDS and clean(value):
            tags.setdefault(name, clean(value) or "")
    return Tags(**tags)


def _add_metadata(tags: dict[str, str], metadata: Mapping[str, Any]) -> None:
    for field, names in METADATA_NAMES.items():
        for name in names:
            value = _as_text(metadata.get(name))
            if value:
                tags.setdefault(field, value)


def _as_text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return clean(str(value))
