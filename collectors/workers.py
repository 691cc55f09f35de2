"""Processes that multiprocessing and Celery fork end without the interpreter's exit; theirs is another."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from collectors.imports import when_imported

_FORKING = ("multiprocessing.util", "billiard.util")


def at_workers_exit(owner: object, leave: Callable[[], None]) -> None:
    """Have workers that are forked from this process call `leave` at their end, for as long as `owner` lives."""

    def in_worker(util: Any) -> None:
        util.Finalize(None, leave, exitpriority=0)

    def register(util: ModuleType) -> None:
        forking: Any = util
        forking.register_after_fork(owner, lambda _: in_worker(forking))

    for module in _FORKING:
        when_imported(module, register)
