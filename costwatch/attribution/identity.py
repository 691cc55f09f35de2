"""What makes a span the same span, and a call the same call, whoever tells of it.

    span_key        one id for a span
    group_of        which spans may speak of the same call: those with its response id, or the span alone
    in_calls        the observations of a group, call by call
    call_id         a call's id in the ledger; group_in is the way back

Providers' response ids are unique, and whatever carries one speaks of that call, however late it comes. Some servers
count instead (Ollama's `chatcmpl-417` comes back within the thousand): such an id is one call only for as long as
that call lasts. Both are functions of the set of observations, so order changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import groupby, pairwise
from uuid import UUID

from collectors.observation import Observation, Provenance

# How far apart the observations of one call, and the spans of one trace, may begin. Bounds every search to a few
# days' partitions. A response id that nobody mentioned for longer is another call's.
REACH = timedelta(days=1)
# The same for ids that come back.
_REACH_OF_COUNTED = timedelta(minutes=10)
# An "id" that so many observations within reach carry tells nothing apart, and is none.
CROWD = 2_000
# How far the clocks of two machines may be apart for ids that come back; a process has only one clock.
_CLOCKS_APART_NS = 10_000_000_000

# "chatcmpl-", "msg_", "resp_": says what it is, not which.
_KIND = re.compile(r"[A-Za-z]+[-_]")
_UNIQUE_LENGTH = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COUNTED = 0x01  # of a group id's first byte: its response id comes back
_BEGINNING_BYTES = 5  # at the end of such a group's id: zero, and in its calls' ids when each began


@dataclass(frozen=True, slots=True)
class Part:
    """What must be known of an observation to tell which call of its group it belongs to."""

    key: UUID  # the span's
    observation: Observation
    started_at: datetime


def span_key(trace_id: bytes, span_id: bytes) -> UUID:
    """One id for a span. Both parts count: span ids alone are only 8 bytes."""
    return UUID(bytes=blake2b(trace_id + span_id, digest_size=16, person=b"span").digest())


def group_of(observation: Observation) -> UUID:
    """The response id's group where there is one, else the span's own.

    The response id is the only thing that client, framework, gateway and server all know; traces are often
    different ones.
    """
    said = observation.response_id
    if not said:
        key = span_key(observation.trace_id, observation.span_id).bytes
        return UUID(bytes=bytes([key[0] & ~_COUNTED]) + key[1:])
    digest = blake2b(said.encode(), digest_size=16, person=b"response").digest()
    if comes_back(said):
        unique = 16 - _BEGINNING_BYTES
        return UUID(
            bytes=bytes([digest[0] | _COUNTED, *digest[1:unique]]) + bytes(_BEGINNING_BYTES)
        )
    return UUID(bytes=bytes([digest[0] & ~_COUNTED]) + digest[1:])


def comes_back(response_id: str) -> bool:
    """Whether an id is too short to be unique: a server's counter, or a test's constant."""
    return len(_KIND.sub("", response_id, count=1)) < _UNIQUE_LENGTH


def reach(group: UUID) -> timedelta:
    """How far apart two observations of one call of this group can begin."""
    return _REACH_OF_COUNTED if _is_counted(group) else REACH


def call_id(group: UUID, started_at: datetime) -> UUID:
    """The id in the ledger of a group's call that began then."""
    if not _is_counted(group):
        return group
    micros = (started_at - _EPOCH) // timedelta(microseconds=1) % 256**_BEGINNING_BYTES
    return UUID(bytes=group.bytes[:-_BEGINNING_BYTES] + micros.to_bytes(_BEGINNING_BYTES))


def group_in(call: UUID) -> UUID:
    """The group that a call's id was made from."""
    if not _is_counted(call):
        return call
    return UUID(bytes=call.bytes[:-_BEGINNING_BYTES] + bytes(_BEGINNING_BYTES))


def _is_counted(identity: UUID) -> bool:
    return bool(identity.bytes[0] & _COUNTED)


def in_calls(group: UUID, parts: Iterable[Part]) -> list[list[Part]]:
    """A group's observations, call by call, each in order of beginning. No two calls begin at the same moment."""
    ordered = sorted(parts, key=_beginning)
    if len(ordered) > CROWD:
        return [list(call) for _, call in groupby(ordered, key=lambda part: part.started_at)]
    return _by_overlap(ordered) if _is_counted(group) else _by_gap(ordered)


def _beginning(part: Part) -> tuple[datetime, UUID]:
    return part.started_at, part.key


def _by_gap(ordered: Sequence[Part]) -> list[list[Part]]:
    calls = [[ordered[0]]] if ordered else []
    for before, part in pairwise(ordered):
        if part.started_at - before.started_at > REACH:
            calls.append([])
        calls[-1].append(part)
    return calls


def _by_overlap(ordered: Sequence[Part]) -> list[list[Part]]:
    """Each call is what hangs together: two views of it overlap, or a third overlaps both."""
    calls: list[list[Part]] = []
    for part in ordered:
        met: list[list[Part]] = []
        apart: list[list[Part]] = []
        for call in calls:
            (met if any(_one_call(other, part) for other in call) else apart).append(call)
        together = sorted((other for call in met for other in call), key=_beginning)
        calls = [*apart, [*together, part]]
    return calls


def _one_call(earlier: Part, later: Part) -> bool:
    if earlier.started_at == later.started_at:
        return True
    if later.started_at - earlier.started_at > _REACH_OF_COUNTED:
        return False
    one, other = earlier.observation, later.observation
    if one.vantage != other.vantage or one.service_name != other.service_name:
        return other.start_unix_ns <= one.end_unix_ns + _CLOCKS_APART_NS
    return other.start_unix_ns <= one.end_unix_ns and not _counts_differ(one, other)


def _counts_differ(one: Observation, other: Observation) -> bool:
    """The same place counted something else: so it was another call, that ran at the same time."""
    counted = one.provenance is other.provenance is Provenance.REPORTED
    return counted and _input_tokens(one) != _input_tokens(other)


def _input_tokens(observation: Observation) -> int:
    usage = observation.usage
    return sum(
        count or 0
        for count in (
            usage.input_tokens,
            usage.cache_read_input_tokens,
            usage.cache_write_input_tokens,
        )
    )
