"""Fingerprints of the requests that pass: off the calling thread wherever that is not the last moment for it."""

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from collectors.fingerprints import Fingerprint, Fingerprints
from collectors.transport.asked import read_request
from collectors.transport.held import Held
from collectors.transport.routes import Route

logger = logging.getLogger(__name__)

_Make = Callable[[Mapping[str, Any]], Fingerprint]

waiting = Held()  # texts of requests, and of answers, that our thread has still to read

_fingerprints: Fingerprints | None = None
_has_failed = False


def use_fingerprints(fingerprints: Fingerprints | None) -> None:
    """How fingerprints are made from here on; None: they are not."""
    global _fingerprints, _has_failed
    _fingerprints, _has_failed = fingerprints, False


def fingerprint_of(route: Route) -> _Make | None:
    """What makes the fingerprint of a request on this route, and never raises; None: nobody wants it."""
    return functools.partial(_make, _fingerprints, route) if _fingerprints is not None else None


def _make(fingerprints: Fingerprints, route: Route, said: Mapping[str, Any]) -> Fingerprint:
    global _has_failed
    try:
        return fingerprints.of(said, route.operation, route.model)
    except Exception as error:
        if not _has_failed:
            _has_failed = True
            # Its name alone: a message may quote what could not be read.
            logger.warning("costwatch has no fingerprint of a request: %s", type(error).__name__)
        return {}


class Pending:
    """A fingerprint that is made once: by a thread of ours, or earlier by who needs it."""

    __slots__ = ("_body", "_found", "_held_bytes", "_lock", "_make")

    def __init__(self, body: object, make: _Make) -> None:
        self._body = body
        self._make = make
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._found: Fingerprint | None = None
        if not isinstance(body, bytes | str):
            self.made()  # the application may still change it

    def can_wait(self) -> bool:
        """Whether its text may be kept for later, when the application itself may have let it go. Asked once."""
        if isinstance(self._body, bytes | str):
            if not waiting.take(len(self._body)):
                return False
            self._held_bytes = len(self._body)
        return True

    def made(self) -> Fingerprint:
        """It; the text is let go."""
        with self._lock:
            if self._found is None:
                self._found = read_request(self._body, self._make).fingerprint
                self._body = None
                self._let_go()
            return self._found

    def _let_go(self) -> None:
        held_bytes, self._held_bytes = self._held_bytes, 0
        if held_bytes:
            waiting.let_go(held_bytes)

    def __del__(self) -> None:
        self._let_go()  # its span was not sampled, or never ended


def begin_fingerprint(route: Route, body: Callable[[], object]) -> Pending | None:
    """What will be the fingerprint of a request; None: nobody wants it, or the body cannot be had."""
    make = fingerprint_of(route)
    if make is None:
        return None
    try:
        return Pending(body(), make)
    except Exception:
        logger.debug("a request's body was not looked at", exc_info=True)
        return None
