"""An observation as it is kept in Span.facts: its fields that say something, as JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from collectors.observation import Observation, Provenance, Tags, Usage, Vantage

# These stand in columns of their own.
_COLUMNS = frozenset({"trace_id", "span_id", "parent_span_id"})
_FIELDS = tuple(f.name for f in fields(Observation) if f.name not in _COLUMNS)
_TAGS = tuple(f.name for f in fields(Tags))
_USAGE = tuple(f.name for f in fields(Usage))


def to_facts(observation: Observation) -> str:
    """JSON of the fields that are neither unknown nor empty. False and zero are said."""
    said: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(observation, name)
        if value is None or value == "":
            continue
        if name in {"tags", "resource_tags"}:
            value = _said_tags(value)
        elif name == "usage":
            value = {m: count for m in _USAGE if (count := getattr(value, m)) is not None}
        if value != {}:
            said[name] = value
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False)


def link_facts(tags: Tags) -> str | None:
    """What is kept of a span that is about no call: the tags that it hands down, if any."""
    said = _said_tags(tags)
    return json.dumps({"tags": said}, separators=(",", ":"), ensure_ascii=False) if said else None


def tags_from(facts: dict[str, Any]) -> Tags:
    return Tags(**facts.get("tags", {}))


def _said_tags(tags: Tags) -> dict[str, str]:
    return {tag: text for tag in _TAGS if (text := getattr(tags, tag))}


def from_facts(
    said: dict[str, Any], trace_id: bytes, span_id: bytes, parent_span_id: bytes | None = None
) -> Observation:
    """The Observation that to_facts was given, but for the parent's id, which its row keeps as a key."""
    known = {name: value for name, value in said.items() if name in _FIELDS}
    known["vantage"] = Vantage(known["vantage"])
    known["provenance"] = Provenance(known.get("provenance", Provenance.ABSENT))
    known["tags"] = tags_from(said)
    known["resource_tags"] = Tags(**known.get("resource_tags", {}))
    known["usage"] = Usage(**known.get("usage", {}))
    return Observation(
        trace_id=bytes(trace_id), span_id=bytes(span_id), parent_span_id=parent_span_id, **known
    )
