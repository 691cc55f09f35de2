"""Drafts: tokens that may come next, for the model to look at several of them in one step.

A draft is kept exactly where it is what the model would have chosen, so an answer is the same with and without.

    read_speculation   "ngram:4", "draft:SOURCE:4" or "" as a Speculation
    NGrams             proposes what followed the last time when the same tokens came
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine.slices import DRAFT, RequestState

_TOKEN_BYTES = array("I").itemsize
_LONGEST, _SHORTEST = 4, 2  # tokens that have to be the same
_LOOK_BACK_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class Speculation:
    """tokens drafts a step; from the model draft_source, or from the request's own text where that is empty."""

    tokens: int
    draft_source: str = ""


def read_speculation(text: str) -> Speculation | None:
    """None for "". Raises ValueError where text is none of the three forms."""
    if not text:
        return None
    kind, _, rest = text.partition(":")
    source, _, count = rest.rpartition(":")
    fits = (kind == "ngram" and not source) or (kind == "draft" and source)
    if not fits or not count.isdecimal() or not 1 <= int(count) <= 16:
        raise ValueError(
            f"speculate={text!r}: expected ngram:4, or draft:SOURCE:4 with the model that proposes; "
            "the number is that of tokens, from 1 to 16"
        )
    return Speculation(int(count), source)


class NGrams:
    """Proposes at most `tokens` tokens: those that followed the latest earlier place where the request's last few tokens
    stood."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, state: RequestState) -> Sequence[int]:
        recent = state.token_ids[-_LOOK_BACK_TOKENS:]
        data = array("I", recent).tobytes()
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            place = _last_place(data, data[-length * _TOKEN_BYTES :])
            if place >= 0:
                return recent[place + length : place + length + self._tokens]
        return ()


def _last_place(data: bytes, pattern: bytes) -> int:
    """Where pattern stands last in data before the end, in tokens; -1: nowhere."""
    end = len(data) - _TOKEN_BYTES
    while (found := data.rfind(pattern, 0, end)) >= 0:
        if found % _TOKEN_BYTES == 0:
            return found // _TOKEN_BYTES
        end = found + len(pattern) - 1
    return -1


class DeviceDrafts:
    """Leaves the proposing to the device: a place for each of `tokens` drafts."""

    def __init__(self, tokens: int) -> None:
        self._places = (DRAFT,) * tokens

    def __call__(self, _: RequestState) -> Sequence[int]:
        return self._places
