"""Who pays for a span: its own tags, then its nearest ancestor's in the same body, then the resource's."""

from collections.abc import Mapping
from typing import Any

from collectors.dialects.openinference import json_object
from collectors.dialects.table import METADATA, METADATA_NAMES, TAG_ITEMS
from collectors.dialects.values import clean
from collectors.observation import Tags

_FIELDS = ("team", "feature", "customer", "user", "session")
NO_TAGS = Tags()


def own_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """The tags that one span or resource carries itself, whichever way it says them."""
    tags = {field: found[field] for field in _FIELDS if field in found}
    if METADATA in found:
        _add_metadata(tags, json_object(found[METADATA]))
    for item in found.get(TAG_ITEMS, ()):
        name, colon, value = item.partition(":")
        if colon and name in _FIELDS and clean(value):
            tags.setdefault(name, clean(value) or "")
    return tags


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


class Inheritance:
    """The tags of every span of a body, and of its resource.

    `parents` and `found` are by span key (trace id + span id). A span's answer is worked out once; a body in
    which spans are each other's ancestors (it is forged, or a bug) ends the walk where the circle closes.
    """

    def __init__(self) -> None:
        self._spans: dict[bytes, tuple[bytes, Mapping[str, Any], dict[str, str]]] = {}
        self._known: dict[bytes, dict[str, str]] = {}

    def add(
        self, key: bytes, parent_key: bytes, found: Mapping[str, Any], resource_tags: dict[str, str]
    ) -> None:
        self._spans[key] = (parent_key, found, resource_tags)

    def of(self, key: bytes) -> Tags:
        _, _, resource_tags = self._spans[key]
        tags = {**resource_tags, **self._of_line(key)}
        return Tags(**tags) if tags else NO_TAGS

    def _of_line(self, key: bytes) -> dict[str, str]:
        """Tags of a span and its ancestors, without the resource's."""
        line: list[bytes] = []
        walked: set[bytes] = set()
        while key in self._spans and key not in self._known and key not in walked:
            line.append(key)
            walked.add(key)
            key = self._spans[key][0]
        inherited = self._known.get(key, {})
        for key in reversed(line):
            found = self._spans[key][1]
            inherited = {**inherited, **own_tags(found)} if found else inherited
            self._known[key] = inherited
        return inherited
