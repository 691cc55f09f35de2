"""Token ids to text as they come: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class TextStream:
    """The text of one answer. What push and finish gave out, put together, is decode() of all tokens,
    up to the first stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        self._token_ids: list[int] = []
        # Decoding starts at _context, so that a token's leading space does not depend on being first;
        # what lies before _given was given out or is withheld.
        self._context = 0
        self._given = 0
        self._withheld = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that the token completes; sets stopped when that ends in a stop string, which is left out."""
        self._token_ids.append(token_id)
        return self._release(self._next_text())

    def finish(self) -> str:
        """What is left: text that might have become a stop string, bytes that never became a character."""
        return "" if self.stopped else self._release(self._pending(), last=True)

    def _pending(self) -> str:
        before = self._decode(self._token_ids[self._context : self._given])
        return self._decode(self._token_ids[self._context :])[len(before) :]

    def _next_text(self) -> str:
        text = self._pending()
        if text.endswith(_REPLACEMENT):
            return ""  # the last character's bytes are not all there
        if text:
            self._context, self._given = self._given, len(self._token_ids)
        return text

    def _release(self, text: str, *, last: bool = False) -> str:
        text = self._withheld + text
        ends = [found for stop in self._stop if (found := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            self._withheld = ""
            return text[: min(ends)]
        kept = 0 if last else self._could_begin_a_stop(text)
        self._withheld = text[len(text) - kept :]
        return text[: len(text) - kept]

    def _could_begin_a_stop(self, text: str) -> int:
        """Length of the longest end of text that a stop string begins with."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
