"""Tells an answer's calls of tools from its text, as it comes.

    CallPart      what is new of one call
    ToolReader    pieces of the answer → text and parts of calls
    CallsOrOtherReader   the same of an answer that is either all calls or all text

However the answer is cut into pieces, the same text and the same calls come out. Nothing is lost: what looks like the
beginning of a call and becomes none, or of a tool that was not offered, is text.
"""

import re
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from serving.tools.formats import HERMES, LLAMA, MISTRAL, ToolFormat

_SPACE = " \t\r\n"
# Bounded spaces: so many characters tell whether a call begins, or has ended.
_S = r"\s{0,8}"
_HEAD = (
    rf'\{{{_S}"name"{_S}:{_S}"(?P<name>[\w.-]{{1,64}})"{_S},{_S}'
    rf'"(?:arguments|parameters)"{_S}:{_S}(?=\{{)'
)
_MOST_HEAD_CHARACTERS = 256
_MOST_TAIL_CHARACTERS = 48


@dataclass(frozen=True, slots=True)
class CallPart:
    """What is new of one call of a tool. id and name come with its first part, arguments in pieces of JSON."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def begins(self) -> bool:
        return bool(self.id)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """head: from a marker to where a call's arguments begin; following: the same for a call after another one.

    tail: from the end of the arguments; where it has a group, another call follows.
    """

    head: re.Pattern[str]
    tail: re.Pattern[str]
    following: re.Pattern[str] = re.compile(_HEAD)


_PATTERNS = {
    HERMES: _Pattern(
        re.compile(rf"<tool_call>{_S}{_HEAD}"), re.compile(rf"{_S}\}}{_S}</tool_call>")
    ),
    LLAMA: _Pattern(re.compile(rf"(?:<\|python_tag\|>)?{_S}{_HEAD}"), re.compile(rf"{_S}\}}")),
    MISTRAL: _Pattern(
        re.compile(rf"(?:\[TOOL_CALLS\])?{_S}\[{_S}{_HEAD}"),
        re.compile(rf"{_S}\}}{_S}(?:(?P<more>,){_S}(?=\{{)|\])"),
    ),
}


class ToolReader:
    """One answer. names: of the tools that may be called; new_id makes a call's id."""

    def __init__(
        self,
        form: ToolFormat,
        names: Collection[str],
        new_id: Callable[[], str] = lambda: f"call_{uuid.uuid4().hex}",
    ) -> None:
        self._form, self._names, self._new_id = form, frozenset(names), new_id
        self._pattern = _PATTERNS[form]
        self._head = self._pattern.head
        self._step: Callable[[bool], bool] = self._read_text
        self._unread = ""
        self._held = ""  # spaces that are no text where a call follows, or the end behind a call
        self._calls = 0
        self._is_behind_a_call = False
        self._arguments = _End()
        self._said: list[str] = []
        self._parts: list[CallPart] = []

    def push(self, text: str) -> tuple[str, Sequence[CallPart]]:
        """What is text and what is new of calls, as far as that is known by now."""
        self._unread += text
        return self._go_on(at_end=False)

    def finish(self) -> tuple[str, Sequence[CallPart]]:
        """What was held back until now, where nothing more will come."""
        text, parts = self._go_on(at_end=True)
        return text + ("" if self._calls else self._held), parts

    def _go_on(self, *, at_end: bool) -> tuple[str, Sequence[CallPart]]:
        while self._step(at_end):
            pass
        found = "".join(self._said), tuple(self._parts)
        self._said, self._parts = [], []
        return found

    # Each step reads some of what is unread. True: there may be more to do; False: it waits for more text.

    def _read_text(self, at_end: bool) -> bool:
        places = [self._unread.find(marker) for marker in self._form.markers]
        first = min((place for place in places if place >= 0), default=None)
        if first is None:
            kept = 0 if at_end else _begun(self._unread, self._form.markers)
            self._say(len(self._unread) - kept)
            return False
        self._say(first)
        self._head, self._step = self._pattern.head, self._read_head
        return True

    def _read_head(self, at_end: bool) -> bool:
        match = self._head.match(self._unread)
        if match is None and not at_end and len(self._unread) <= _MOST_HEAD_CHARACTERS:
            return False
        if match is None or match["name"] not in self._names:
            self._say(1)  # without its first letter it is no marker any more
            self._step = self._read_text
            return True
        self._unread, self._held = self._unread[match.end() :], ""
        self._parts.append(CallPart(self._calls, self._new_id(), match["name"]))
        self._arguments, self._step = _End(), self._read_arguments
        return True

    def _read_arguments(self, at_end: bool) -> bool:
        end = self._arguments.find(self._unread)
        written = self._unread[:end]
        if written:
            self._parts.append(CallPart(self._calls, arguments=written))
        self._unread = self._unread[len(written) :]
        if end is None:
            return False
        self._step = self._read_tail
        return True

    def _read_tail(self, at_end: bool) -> bool:
        match = self._pattern.tail.match(self._unread)
        if match is None and len(self._unread) <= _MOST_TAIL_CHARACTERS and not at_end:
            return False
        if match is None and at_end:
            self._unread = ""  # the answer was cut off in the middle of the tail
        self._calls, self._is_behind_a_call = self._calls + 1, True
        self._unread = self._unread[match.end() if match else 0 :]
        if match and match.groupdict().get("more"):
            self._head, self._step = self._pattern.following, self._read_head
        else:
            self._step = self._read_text
        return True

    def _say(self, characters: int) -> None:
        text = self._held + self._unread[:characters]
        self._unread = self._unread[characters:]
        between = _SPACE + self._form.separator if self._is_behind_a_call else _SPACE
        said = text.rstrip(between)
        self._held = text[len(said) :]
        if said:
            self._said.append(said)
            self._is_behind_a_call = False


class CallsOrOtherReader:
    """Reads an answer whose constraint lets it be calls, or else something that begins otherwise, such as JSON.

    What looks like a call further on, say in a list that JSON holds, is none.
    """

    def __init__(self, reader: ToolReader, form: ToolFormat) -> None:
        self._reader: ToolReader | None = reader
        self._first_letters = {marker[0] for marker in form.markers}
        self._has_begun = False

    def push(self, text: str) -> tuple[str, Sequence[CallPart]]:
        begin = text.lstrip(_SPACE)[:1]
        if begin and not self._has_begun:
            self._has_begun = True
            if begin not in self._first_letters:
                return self._is_text(text)
        return (text, ()) if self._reader is None else self._reader.push(text)

    def _is_text(self, text: str) -> tuple[str, Sequence[CallPart]]:
        """From now on. Spaces that came before are still with the reader."""
        held = "" if self._reader is None else self._reader.finish()[0]
        self._reader = None
        return held + text, ()

    def finish(self) -> tuple[str, Sequence[CallPart]]:
        return ("", ()) if self._reader is None else self._reader.finish()


def _begun(text: str, markers: Sequence[str]) -> int:
    """How many of the last characters may be the beginning of a marker."""
    most = max(map(len, markers)) - 1
    for length in range(min(most, len(text)), 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length
    return 0


class _End:
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, piece: str) -> int | None:
        """The place behind the object's end in this piece; None: it ends later."""
        for place, letter in enumerate(piece):
            if self._in_string:
                self._read_string(letter)
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
            else:
                self._in_string = letter == '"'
        return None

    def _read_string(self, letter: str) -> None:
        if self._escaped:
            self._escaped = False
        elif letter == "\\":
            self._escaped = True
        elif letter == '"':
            self._in_string = False


__all__ = ["CallPart", "CallsOrOtherReader", "ToolReader"]
