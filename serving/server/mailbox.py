"""What the engine's thread has to say, carried to the event loop: one wake-up for all that came since the last."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


class Mailbox:
    """put() from any thread; what was put is handed out on the loop, in its order."""

    def __init__(self) -> None:
        self._letters: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_announced = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """On the loop that takes the letters, before the first of them."""
        self._loop = asyncio.get_running_loop()

    def put(self, take: Callable[[Any], None], letter: Any) -> None:
        """Have take(letter) called on the loop soon."""
        assert self._loop is not None
        self._letters.append((take, letter))
        if not self._is_announced:
            self._is_announced = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: a second Ctrl-C
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        # First this, then the letters: whoever puts one from here on announces it again.
        self._is_announced = False
        while self._letters:
            take, letter = self._letters.popleft()
            try:
                take(letter)
            except Exception:
                _log.exception("a report of the engine could not be taken")


__all__ = ["Mailbox"]
