"""What makes a span the same span, and a call the same call, whoever tells of it.

    span_key        one id for a span
    group_of        which spans may speak of the same call: those with its response id, or the span alone
    in_calls        the observations of a group, call by call
    call_id         a call's id in the ledger; group_in is the way back

Ids are the 16 bytes of a UUID; moments are microseconds since 1970, in which the ledger keeps them.

Providers' response ids are unique, and whatever carries one speaks of that call, however late it comes. Some servers
count instead (Ollama's `chatcmpl-417` comes back within the thousand): such an id is one call only for as long as
that call lasts. Both are functions of the set of observations, so order changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, pairwise

from collectors.observation import Observation, Provenance

# How far apart the observations of one call, and the spans of one trace, may begin. Bounds every search to a few
# days' partitions. A response id that nobody mentioned for longer is another call's.
REACH_MICROS = 86_400_000_000
# The same for ids that come back.
_REACH_OF_COUNTED_MICROS = 600_000_000
# An "id" that so many observations within reach carry tells nothing apart, and is none.
CROWD = 2_000
# How far the clocks of two machines may be apart for ids that come back; a process has only one clock.
CLOCKS_APART_NS = 10_000_000_000

# "chatcmpl-", "msg_", "resp_": says what it is, not which.
_KIND = re.compile(r"[A-Za-z]+[-_]")
_UNIQUE_LENGTH = 16

_COUNTED = 0x01  # of a group id's first byte: its response id comes back
_FIRST = [bytes([byte]) for byte in range(256)]
_BEGINNING_BYTES = 5  # at the end of such a group's id: zero, and in its calls' ids when each began


@dataclass(frozen=True, slots=True)
class Part:
    """What must be known of an observation to tell which call of its group it belongs to."""

    span_key: bytes
    observation: Observation

    @property
    def begun(self) -> tuple[int, bytes]:
        return start_micros(self.observation), self.span_key


def start_micros(observation: Observation) -> int:
    return observation.start_unix_ns // 1000


def span_key(trace_id: bytes, span_id: bytes) -> bytes:
    """One id for a span. Both parts count: span ids alone are only 8 bytes."""
    return _digest(_OF_SPAN, trace_id + span_id)


def span_keys(spans: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The same of many, by trace id and span id."""
    copy = _OF_SPAN.copy
    digests = []
    for trace_id, span_id in spans:
        digest = copy()
        digest.update(trace_id + span_id)
        digests.append(digest.digest())
    return digests


# Copied, which costs half of making one.
_OF_SPAN = blake2b(digest_size=16, person=b"span")
_OF_RESPONSE = blake2b(digest_size=16, person=b"response")


def _digest(empty: blake2b, said: bytes) -> bytes:
    digest = empty.copy()
    digest.update(said)
    return digest.digest()


def group_of(observation: Observation, key: bytes) -> bytes:
    """The response id's group where there is one, else the span's own, made from its key.

    The response id is the only thing that client, framework, gateway and server all know; traces are often
    different ones.
    """
    said = observation.response_id
    return group_of_response(said) if said else group_of_span(key)


def group_of_span(key: bytes) -> bytes:
    return _FIRST[key[0] & ~_COUNTED] + key[1:]


def group_of_response(said: str) -> bytes:
    digest = _digest(_OF_RESPONSE, said.encode())
    if comes_back(said):
        unique = 16 - _BEGINNING_BYTES
        return _FIRST[digest[0] | _COUNTED] + digest[1:unique] + bytes(_BEGINNING_BYTES)
    return _FIRST[digest[0] & ~_COUNTED] + digest[1:]


def comes_back(response_id: str) -> bool:
    """Whether an id is too short to be unique: a server's counter, or a test's constant."""
    kind = _KIND.match(response_id)
    return len(response_id) - (kind.end() if kind else 0) < _UNIQUE_LENGTH


def reach_micros(group: bytes) -> int:
    """How far apart two observations of one call of this group can begin."""
    return _REACH_OF_COUNTED_MICROS if _is_counted(group) else REACH_MICROS


def call_id(group: bytes, begun_micros: int) -> bytes:
    """The id in the ledger of a group's call that began then."""
    if not _is_counted(group):
        return group
    beginning: int = begun_micros % 256**_BEGINNING_BYTES
    return group[:-_BEGINNING_BYTES] + beginning.to_bytes(_BEGINNING_BYTES)


def call_ids(groups: Sequence[bytes], begun_micros: Sequence[int]) -> list[bytes]:
    """The same of many."""
    return [
        call_id(group, begun) if group[0] & _COUNTED else group
        for group, begun in zip(groups, begun_micros, strict=True)
    ]


def group_in(call: bytes) -> bytes:
    """The group that a call's id was made from."""
    if not _is_counted(call):
        return call
    return call[:-_BEGINNING_BYTES] + bytes(_BEGINNING_BYTES)


def _is_counted(identity: bytes) -> bool:
    return bool(identity[0] & _COUNTED)


def in_calls(group: bytes, parts: Iterable[Part]) -> list[list[Part]]:
    """A group's observations, call by call, each in order of beginning. No two calls begin at the same moment."""
    ordered = sorted(parts, key=lambda part: part.begun)
    if len(ordered) > CROWD:
        return [list(call) for _, call in groupby(ordered, key=lambda part: part.begun[0])]
    return _by_overlap(ordered) if _is_counted(group) else _by_gap(ordered)


def _by_gap(ordered: Sequence[Part]) -> list[list[Part]]:
    calls = [[ordered[0]]] if ordered else []
    for before, part in pairwise(ordered):
        if part.begun[0] - before.begun[0] > REACH_MICROS:
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
        together = sorted((other for call in met for other in call), key=lambda part: part.begun)
        calls = [*apart, [*together, part]]
    return calls


def _one_call(earlier: Part, later: Part) -> bool:
    if earlier.begun[0] == later.begun[0]:
        return True
    if later.begun[0] - earlier.begun[0] > _REACH_OF_COUNTED_MICROS:
        return False
    one, other = earlier.observation, later.observation
    if one.vantage != other.vantage or one.service_name != other.service_name:
        return other.start_unix_ns <= one.end_unix_ns + CLOCKS_APART_NS
    return other.start_unix_ns <= one.end_unix_ns and not _counts_differ(one, other)


def _counts_differ(one: Observation, other: Observation) -> bool:
    """The same place counted something else: so it was another call, that ran at the same time."""
    counted = one.provenance is other.provenance is Provenance.REPORTED
    return counted and input_tokens(one) != input_tokens(other)


def input_tokens(observation: Observation) -> int:
    usage = observation.usage
    return sum(
        count or 0
        for count in (
            usage.input_tokens,
            usage.cache_read_input_tokens,
            usage.cache_write_input_tokens,
        )
    )
