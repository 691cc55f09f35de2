"""How many bytes of requests and answers wait to be read by our thread, so that they never become too many."""

import threading

MANY_BYTES = 4 * 1024 * 1024  # not to wait for the next turn with
MOST_BYTES = 32 * 1024 * 1024  # what is more is read where it ends


class Held:
    """Counts bytes that somebody keeps for later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def take(self, size_bytes: int) -> bool:
        """False where there is no room for so many more."""
        with self._lock:
            if self._bytes + size_bytes > MOST_BYTES:
                return False
            self._bytes += size_bytes
            return True

    def let_go(self, size_bytes: int) -> None:
        """So many are kept no longer."""
        with self._lock:
            self._bytes = max(0, self._bytes - size_bytes)  # a forked child has its parent's

    def is_much(self) -> bool:
        """Whether somebody should read them soon."""
        return self._bytes > MANY_BYTES

    def forget(self) -> None:
        """A forked child keeps nothing of its parent's, whose threads may have held the lock."""
        self._lock = threading.Lock()
        self._bytes = 0
