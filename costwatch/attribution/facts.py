"""An observation as it is kept in Span.facts: its fields that say something, as JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from operator import attrgetter
from typing import Any

from collectors.observation import Observation, Provenance, Tags, Usage, Vantage

# These stand in columns of their own.
_COLUMNS = frozenset({"trace_id", "span_id", "parent_span_id"})
_NESTED = frozenset({"tags", "resource_tags", "usage"})
_KNOWN = frozenset(f.name for f in fields(Observation)) - _COLUMNS
_FIELDS = tuple(f.name for f in fields(Observation) if f.name in _KNOWN - _NESTED)
_TAGS = tuple(f.name for f in fields(Tags))
_USAGE = tuple(f.name for f in fields(Usage))
_values, _texts, _counts = attrgetter(*_FIELDS), attrgetter(*_TAGS), attrgetter(*_USAGE)
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
NO_TAGS = Tags()


def to_facts(observation: Observation) -> str:
    """JSON of the fields that are neither unknown nor empty. False and zero are said."""
    values = zip(_FIELDS, _values(observation), strict=True)
    said: dict[str, Any] = {
        name: value for name, value in values if value is not None and value != ""
    }
    _say(said, "tags", _said_tags(observation.tags))
    _say(said, "resource_tags", _said_tags(observation.resource_tags))
    usage = zip(_USAGE, _counts(observation.usage), strict=True)
    _say(said, "usage", {meter: count for meter, count in usage if count is not None})
    return _encode(said)


def _say(said: dict[str, Any], name: str, value: dict[str, Any]) -> None:
    if value:
        said[name] = value


def link_facts(tags: Tags) -> str | None:
    """What is kept of a span that is about no call: the tags that it hands down, if any."""
    said = _said_tags(tags)
    return _encode({"tags": said}) if said else None


def tags_from(facts: dict[str, Any]) -> Tags:
    return Tags(**facts.get("tags", {}))


def _said_tags(tags: Tags) -> dict[str, str]:
    if tags == NO_TAGS:
        return {}
    return {tag: text for tag, text in zip(_TAGS, _texts(tags), strict=True) if text}


def from_facts(
    said: dict[str, Any], trace_id: bytes, span_id: bytes, parent_span_id: bytes | None = None
) -> Observation:
    """The Observation that to_facts was given, but for the parent's id, which its row keeps as a key."""
    known = {name: value for name, value in said.items() if name in _KNOWN}
    known["vantage"] = Vantage(known["vantage"])
    known["provenance"] = Provenance(known.get("provenance", Provenance.ABSENT))
    known["tags"] = tags_from(said)
    known["resource_tags"] = Tags(**known.get("resource_tags", {}))
    known["usage"] = Usage(**known.get("usage", {}))
    return Observation(
        trace_id=bytes(trace_id), span_id=bytes(span_id), parent_span_id=parent_span_id, **known
    )
