"""What the engine says of a call's answers → parts: text, calls of tools, how it ended."""

from collections.abc import Callable, Iterator, Sequence

from serving.engine.request import Progress
from serving.server.answers import Part
from serving.server.calls import News
from serving.server.runtime import CallReader
from serving.tools.reader import CallPart


class Reading:
    """One for each call. new_reader makes what tells calls of tools from text; None: all is text."""

    def __init__(self, new_reader: Callable[[], CallReader] | None = None) -> None:
        self._new_reader = new_reader
        self._readers: dict[int, CallReader] = {}

    def parts(self, found: Sequence[News]) -> Iterator[Part]:
        for index, progress in found:
            text, calls = self._read(index, progress)
            reason = progress.finished.reason if progress.finished else None
            yield Part(index, text, tuple(calls), progress.logprobs, reason)

    def _read(self, index: int, progress: Progress) -> tuple[str, Sequence[CallPart]]:
        if self._new_reader is None:
            return progress.text, ()
        if index not in self._readers:
            self._readers[index] = self._new_reader()
        reader = self._readers[index]
        text, calls = reader.push(progress.text)
        if progress.finished is None:
            return text, calls
        last_text, last_calls = reader.finish()
        return text + last_text, (*calls, *last_calls)


__all__ = ["Reading"]
