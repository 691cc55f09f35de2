"""Waiting for other processes."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


def eventually(what: str, check: Callable[[], T], seconds: float = 30) -> T:
    """What the check returns once that is true; fails with what was waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := check():
            return found
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {seconds} s")
