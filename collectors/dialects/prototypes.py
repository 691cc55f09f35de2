"""Spans that say the same as one before, but for numbers and ids: read by comparing bytes.

A span's attributes are of three sorts: common ones (model, provider, team, …), which thousands of spans repeat byte by
byte; its own (token counts, ids, times, people); and those that nobody reads. What recognise.py made of the first span
with the same common attributes, and own ones of the same names, holds for the next: only its own values are put in.

Spans of dialects with texts to look into, failed ones, and whatever else is out of the ordinary, are read one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from collectors.dialects import litellm, table
from collectors.dialects.attributes import ROWS, Found, Row
from collectors.dialects.recognise import COUNTS, is_plain, meters_of
from collectors.dialects.scopes import Scope
from collectors.dialects.sheets import PEOPLE, Layout, layout_of
from collectors.dialects.usage import Counts
from collectors.dialects.values import Read, flag, integer, text, unquoted
from collectors.observation import Observation, SpanLink, Tags

# A span's own values that stand in an Observation as they were read, or are its counts.
_PEOPLE = frozenset(PEOPLE)
_OWN = frozenset(
    {
        *COUNTS,
        *_PEOPLE,
        "response_id",
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
        "request_hash",
        "prefix_hashes",
        "prompt_bytes",
    }
)
_OF_EACH = frozenset(
    {
        "trace_id",
        "span_id",
        "parent_span_id",
        "start_unix_ns",
        "end_unix_ns",
        "tags",
        "usage",
        "provenance",
        "contradiction",
    }
)
_FIELDS = tuple(field.name for field in fields(Observation) if field.name not in _OF_EACH)
# Protobuf: something of under 128 bytes as field 1, a name or a text; and as field 2, a value.
_FIRST_FIELD, _SECOND_FIELD, _ONE_BYTE = 0x0A, 0x12, 0x7F
_MAX_COMMON_BYTES = 512
# What random values of common attributes can fill.
_SEEN_LIMIT, _PROTOTYPES_LIMIT = 50_000, 5_000


@dataclass(frozen=True, slots=True)
class _Sort:
    """What is done with an attribute of a name. Neither common nor own: its span is read by itself."""

    meaning: str
    read: Read
    is_common: bool
    is_own: bool


def _sort(row: Row) -> _Sort:
    is_own = row.meaning in _OWN
    is_common = not is_own and row.meaning != table.LOCAL_ID and row.read in (flag, text, unquoted)
    return _Sort(row.meaning, row.read, is_common, is_own)


_SORTS = {name.encode(): _sort(row) for name, row in ROWS.items()}


# Attributes that were seen: a number for a common one, zero for one that nobody reads, or what it counts: the same few
# thousand counts come again and again. No number is given twice, so a prototype outlives what it was made from.
_Said = int | tuple[str, Any]
_T = TypeVar("_T", int, tuple[str, Any])
_seen: dict[bytes, _Said] = {}
_numbers = count(1)
_prototypes: dict[tuple[Any, ...], Prototype] = {}


class Parts(NamedTuple):
    """A span's attributes: its common ones as numbers, and what it says for itself."""

    common: tuple[int, ...]
    names: tuple[str, ...]  # meanings of its own values
    values: Sequence[Any]


class _Alone(Exception):
    """The span has to be read by itself."""


def parts_of(attributes: Iterable[bytes]) -> Parts | None:
    """The parts of a span; None where it has to be read by itself."""
    common: list[int] = []
    names: list[str] = []
    values: list[Any] = []
    seen = _seen.get
    try:
        for attribute in attributes:
            said = seen(attribute)
            if said is None:
                said = _look_at(attribute)
            if isinstance(said, int):
                if said:
                    common.append(said)
                continue
            meaning, value = said
            if meaning in names:
                return None  # two names for one thing: the table says which counts
            if value is not None:
                names.append(meaning)
                values.append(value)
    except _Alone:
        return None
    return Parts(tuple(common), tuple(names), values)


def _look_at(attribute: bytes) -> _Said:
    """What an attribute that was not seen before says: a number for a common one, or a value of the span's own."""
    # The attribute's name, without parsing its value.
    if len(attribute) < 2 or attribute[0] != _FIRST_FIELD or attribute[1] > _ONE_BYTE:
        raise _Alone
    end = 2 + attribute[1]
    if not _is_one_pair(attribute, end):
        raise _Alone
    sort = _SORTS.get(attribute[2:end])
    if sort is not None and sort.is_own:
        return _own(attribute, end, sort)
    if sort is None and len(attribute) > _MAX_COMMON_BYTES:
        return 0  # a prompt, say
    if sort is not None and (len(attribute) > _MAX_COMMON_BYTES or not sort.is_common):
        raise _Alone
    return _remember(attribute, 0 if sort is None else next(_numbers))


def _is_one_pair(attribute: bytes, end: int) -> bool:
    """Whether a value follows the name, and nothing follows the value: so a parser finds no other name in it.

    end   of the name.
    """
    if end >= len(attribute) or attribute[end] != _SECOND_FIELD:
        return end == len(attribute)
    if len(attribute) - end - 2 <= _ONE_BYTE:
        return end + 1 < len(attribute) and attribute[end + 1] == len(attribute) - end - 2
    size = 0
    for place, byte in enumerate(attribute[end + 1 : end + 6]):
        size |= (byte & _ONE_BYTE) << 7 * place
        if byte <= _ONE_BYTE:
            return end + 2 + place + size == len(attribute)
    return False


def _own(attribute: bytes, end: int, sort: _Sort) -> tuple[str, Any]:
    """A value of the span's own; None is no value. end: of the attribute's name."""
    value = None
    if sort.read is text:
        value = _short_text(attribute, end)
    if value is None:
        try:
            value = sort.read(KeyValue.FromString(attribute).value)
        except DecodeError:
            raise _Alone from None  # half a character, say: the rest of the span counts
        if value is not None and sort.read is integer and len(attribute) <= _MAX_COMMON_BYTES:
            return _remember(attribute, (sort.meaning, value))
    if sort.meaning == "response_id" and (value or "").startswith(litellm.PACKED_ID):
        raise _Alone
    return sort.meaning, value


def _short_text(attribute: bytes, end: int) -> str | None:
    """The text of an attribute as nearly all are written, read without a parser; None: it takes one."""
    head = attribute[end : end + 4]
    size = len(attribute) - end - 4
    if (
        head != bytes((_SECOND_FIELD, size + 2, _FIRST_FIELD, size))
        if 0 < size < _ONE_BYTE - 2
        else True
    ):
        return None
    try:
        found = attribute[end + 4 :].decode()
    except UnicodeDecodeError:
        return None
    return found if found.isprintable() else None


def _remember(attribute: bytes, said: _T) -> _T:
    if len(_seen) >= _SEEN_LIMIT:
        forget()
    _seen[attribute] = said
    return said


def prototype_of(key: tuple[Any, ...]) -> Prototype | None:
    """What an earlier span with the same key was, if any was."""
    return _prototypes.get(key)


def remember(
    key: tuple[Any, ...], parts: Parts, link: SpanLink, seen: Observation | None, scope: Scope
) -> None:
    """Let later spans with this key be read as this one was, where that can be.

    scope   who spoke, as recognise.py found.
    """
    if seen is not None and not is_plain(seen.dialect):
        return
    if len(_prototypes) >= _PROTOTYPES_LIMIT:
        _prototypes.clear()
    _prototypes[key] = Prototype(parts, link, seen, scope)


def forget() -> None:
    _seen.clear()
    _prototypes.clear()


class Prototype:
    """A span that was read, without its own values."""

    __slots__ = (
        "_fields",
        "_scope",
        "_stands",
        "_streaming",
        "_tags",
        "is_call",
        "layout",
        "names",
    )

    def __init__(
        self, parts: Parts, link: SpanLink, seen: Observation | None, scope: Scope
    ) -> None:
        self._tags = link.tags
        self._scope = scope
        self.names = parts.names
        self.is_call = seen is not None
        self.layout: Layout | None = None
        if seen is None:
            return
        own = dict(zip(parts.names, parts.values, strict=True))
        self._fields = {name: getattr(seen, name) for name in _FIELDS}
        # Not all that is said stands: the time to the first token of an answer that came at once means nothing.
        self._stands: Sequence[str] = [
            name for name in own if name in self._fields and self._fields[name] == own[name]
        ]
        self._streaming = seen.streaming
        if not seen.is_wrapper:
            self.layout = layout_of(
                parts.names, frozenset(self._stands), scope.input_excludes_cache
            )

    def tags(self, own: Found) -> Tags:
        tags = self._tags
        if own.keys().isdisjoint(_PEOPLE):
            return tags
        return Tags(
            tags.team,
            tags.feature,
            own.get("customer", tags.customer),
            own.get("user", tags.user),
            own.get("session", tags.session),
        )

    def observation(self, link: SpanLink, end_unix_ns: int, own: Found) -> Observation:
        """What a span with these own values says."""
        meters = meters_of(
            Counts(*map(own.get, COUNTS)), self._scope, is_stream=bool(self._streaming)
        )
        said = self._fields.copy()
        for name in self._stands:
            said[name] = own[name]
        return Observation(
            trace_id=link.trace_id,
            span_id=link.span_id,
            parent_span_id=link.parent_span_id,
            start_unix_ns=link.start_unix_ns,
            end_unix_ns=end_unix_ns,
            tags=link.tags,
            usage=meters.usage,
            provenance=meters.provenance,
            contradiction=meters.contradiction,
            **said,
        )
