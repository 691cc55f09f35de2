"""What the engine says of a call's answers → parts: text, calls of tools, how it ended."""

from collections.abc import Iterator, Sequence

from serving.server.answers import Part
from serving.server.calls import News


class Reading:
    """One for each call."""

    def parts(self, found: Sequence[News]) -> Iterator[Part]:
        for index, progress in found:
            reason = progress.finished.reason if progress.finished else None
            yield Part(index, progress.text, (), progress.logprobs, reason)


__all__ = ["Reading"]
