"""A span's attributes, walked once: what the table knows, by its meaning. The hot path of ingest."""

from collections.abc import Iterable
from operator import itemgetter
from typing import Any, NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from collectors import semconv
from collectors.dialects import table
from collectors.dialects.values import MAX_TEXT_CHARACTERS, Read, integer, text


class Row(NamedTuple):
    """What one attribute means. Rank 0 is the most trusted name of its meaning."""

    meaning: str
    rank: int
    read: Read
    is_tag: bool


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    ranks: dict[str, int] = {}
    for names, is_tag in ((table.NAMES, False), (table.TAG_NAMES, True)):
        for meaning, read, attributes in names:
            for attribute in attributes:
                rank = ranks.get(meaning, 0)
                ranks[meaning] = rank + 1
                rows[attribute] = Row(meaning, rank, read, is_tag)
    return rows


ROWS = _rows()
_RESOURCE_NAMES = {
    semconv.SERVICE_NAME: Row("service_name", 0, text, False),
    semconv.DEPLOYMENT_ENVIRONMENT: Row("environment", 0, text, False),
    "deployment.environment": Row("environment", 1, text, False),
    # What a runtime that does not know it itself is told by OTEL_RESOURCE_ATTRIBUTES.
    semconv.DEVICE_TYPE: Row("device_type", 0, text, False),
    semconv.HW_ID: Row("device_ids", 0, text, False),
}
_RESOURCE_ROWS = {name: row for name, row in ROWS.items() if row.is_tag} | _RESOURCE_NAMES

Found = dict[str, Any]
_NO_TAGS: Found = {}
_RANK = itemgetter(0)


def read_span(attributes: Iterable[KeyValue]) -> tuple[Found, Found]:
    """What a span's attributes say, by meaning, and its tags."""
    return _read(attributes, ROWS)


def read_resource(attributes: Iterable[KeyValue]) -> tuple[Found, Found]:
    """A resource's service, environment and device, and its tags."""
    return _read(attributes, _RESOURCE_ROWS)


def _read(attributes: Iterable[KeyValue], rows: dict[str, Row]) -> tuple[Found, Found]:
    found: Found = {}
    tags = _NO_TAGS
    lesser: list[tuple[int, str, bool, Any]] | None = None
    for pair in attributes:
        row = rows.get(pair.key)
        if row is None:
            continue
        meaning, rank, read, is_tag = row
        value: Any
        # The two readers that nearly all attributes need, without a call where the value is the usual one.
        if read is text:
            value = pair.value.string_value
            if not value or len(value) > MAX_TEXT_CHARACTERS or not value.isprintable():
                value = text(pair.value)
        elif read is integer:
            value = pair.value.int_value or integer(pair.value)
        else:
            value = read(pair.value)
        if value is None:
            continue
        if rank:
            lesser = lesser or []
            lesser.append((rank, meaning, is_tag, value))
        elif is_tag:
            if tags is _NO_TAGS:
                tags = {}
            tags[meaning] = value
        else:
            found[meaning] = value
    if lesser is None:
        return found, tags
    return _with_lesser(found, tags, lesser)


def _with_lesser(
    found: Found, tags: Found, lesser: list[tuple[int, str, bool, Any]]
) -> tuple[Found, Found]:
    """Older and less trusted names fill what the first ones left open."""
    if len(lesser) > 1:
        lesser.sort(key=_RANK)
    for _, meaning, is_tag, value in lesser:
        if not is_tag:
            found.setdefault(meaning, value)
        elif meaning not in tags:
            tags = {**tags, meaning: value}
    return found, tags
