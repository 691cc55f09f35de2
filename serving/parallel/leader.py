"""Rank 0's hold on the other ranks: starts them, tells them what to compute, notices when one ends."""

import contextlib
import logging
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from serving.engine.paged_model import PagedSizes, Plan
from serving.engine.request import EngineFailed
from serving.models.share import Share
from serving.parallel.group import check_devices, join_group, leave_group
from serving.parallel.orders import (
    HERE,
    READY,
    Begin,
    Build,
    Compute,
    Order,
    Prepare,
    Stop,
    Task,
)

logger = logging.getLogger(__name__)

_START_SECONDS = 3_600.0  # to load a model of any size
_STOP_SECONDS = 10.0
_MOMENT_SECONDS = 10.0  # from a product that failed until the rank that ended is known to have


@dataclass(slots=True, eq=False)
class _Follower:
    """A rank's process. said: HERE and READY, or what it failed with."""

    rank: int
    process: subprocess.Popen[bytes]
    orders: Connection
    said: list[str] = field(default_factory=list)


@contextlib.contextmanager
def leading(task: Task, ranks: int) -> Iterator["Leader"]:
    """The other ranks, begun and met; they are ended after the block. This process is rank 0 meanwhile, and of no others.

    Raises ValueError where there are not so many devices, and EngineFailed where a rank does not come.
    """
    check_devices(task.device, ranks)
    leader = Leader(task, ranks)
    try:
        leader.meet()
        yield leader
    finally:
        leader.stop()


class Leader:
    """Rank 0's side. What computes together is for one thread; the rest is safe in threads.

    When a rank ends, all are ended: none of them can go on. `check` says so from then on, and who asked with `when_lost`
    is told.
    """

    def __init__(self, task: Task, ranks: int) -> None:
        self.share = Share(0, ranks)
        self._task = task
        self._folder = tempfile.TemporaryDirectory(prefix="costwatch-ranks-")
        self._news = threading.Condition()  # its lock guards what follows
        self._failure = ""
        self._stopping = False
        self._in_group = False
        self._when_lost: Callable[[str], None] = _nothing
        self._followers = [_started(rank) for rank in range(1, ranks)]
        self._threads = [
            threading.Thread(
                target=self._listen, args=[each], name=f"rank-{each.rank}", daemon=True
            )
            for each in self._followers
        ]

    @property
    def ranks(self) -> int:
        return self.share.ranks

    @property
    def pids(self) -> list[int]:
        """Of the other ranks' processes."""
        return [each.process.pid for each in self._followers]

    def meet(self) -> None:
        """Let the others begin to load. Raises EngineFailed where one does not come."""
        for thread in self._threads:
            thread.start()
        for each in self._followers:
            share = Share(each.rank, self.ranks)
            with contextlib.suppress(OSError):  # one that has ended says why
                each.orders.send(Begin(self._task, share, Path(self._folder.name)))
        self._wait_until_all_said(HERE)
        join_group(Path(self._folder.name), self.share, self._task.device)
        with self._news:
            self._in_group = True

    def wait_until_ready(self) -> None:
        """Until every rank has loaded its part. Raises EngineFailed where one can't."""
        self._wait_until_all_said(READY)

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """tell is called once, from any thread, when a rank is lost, with the reason."""
        with self._news:
            self._when_lost = tell
            failure = self._failure
        if failure:
            tell(failure)

    def build(self, sizes: PagedSizes) -> None:
        self._tell(Build(sizes))

    def prepare(self) -> None:
        self._tell(Prepare())

    @contextlib.contextmanager
    def computing(self, plan: Plan, drawn: Tensor | None) -> Iterator[None]:
        """The others run the plan; in the block this rank does. See engine/runner.py."""
        try:
            self._tell(Compute(plan, 0 if drawn is None else len(drawn)))
            if drawn is not None:
                dist.broadcast(drawn, src=0)
            yield
        except Exception as error:
            raise self._failed(error) from error

    def check(self) -> None:
        """Raises EngineFailed from the moment on at which a rank is lost."""
        with self._news:
            failure = self._failure
        if failure:
            raise EngineFailed(failure)

    def stop(self) -> None:
        """End the other ranks; returns when they have ended. Twice is once."""
        with self._news:
            if self._stopping:
                return
            self._stopping = True
        for each in self._followers:
            with contextlib.suppress(OSError):
                each.orders.send(Stop())
        self._leave_group()
        for each, thread in zip(self._followers, self._threads, strict=True):
            _end(each, thread)
        self._folder.cleanup()

    def _leave_group(self) -> None:
        with self._news:
            was_in_group, self._in_group = self._in_group, False
        if was_in_group:
            leave_group(self._task.device)

    def _tell(self, order: Order) -> None:
        self.check()
        packed = pickle.dumps(order)  # once for all
        try:
            for each in self._followers:
                each.orders.send_bytes(packed)
        except OSError as error:
            raise self._failed(error) from error

    def _wait_until_all_said(self, word: str) -> None:
        with self._news:
            came = self._news.wait_for(
                lambda: self._failure or all(word in each.said for each in self._followers),
                _START_SECONDS,
            )
        if not came:
            self._lose(f"a rank was not {word} within {_START_SECONDS:.0f} s")
        self.check()

    def _failed(self, error: Exception) -> EngineFailed:
        """What there is to say of a step that did not go well: which rank ended, if one did."""
        with self._news:
            self._news.wait_for(lambda: self._failure, _MOMENT_SECONDS)
        self._lose(f"rank 0 failed in a step of {self.ranks} ranks: {error!r}")
        return EngineFailed(self._failure)

    def _listen(self, follower: _Follower) -> None:
        """Until it ends."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                word: str = follower.orders.recv()
                with self._news:
                    follower.said.append(word)
                    self._news.notify_all()
        code = follower.process.wait()
        reason = follower.said[-1] if code > 0 and follower.said else f"exit code {code}"
        self._lose(f"rank {follower.rank} (process {follower.process.pid}) ended: {reason}")

    def _lose(self, reason: str) -> None:
        """The first reason counts."""
        with self._news:
            if self._failure or self._stopping:
                return
            self._failure = f"{reason}; restart the server"
            tell = self._when_lost
            self._news.notify_all()
        logger.error("%s", self._failure)
        for each in self._followers:
            each.process.kill()
        if self._task.device == "cuda":
            self._leave_group()  # our device waits for theirs, and would for ever
        tell(self._failure)


def _nothing(_: str) -> None:
    pass


def _started(rank: int) -> _Follower:
    ours, theirs = Pipe()
    process = subprocess.Popen(  # noqa: S603 — a program of ours
        [sys.executable, "-m", "serving.parallel.follower", str(theirs.fileno())],
        stdin=subprocess.PIPE,  # closes when this process ends, and the follower ends with it
        stdout=2,  # what the server says on its own is for who started it
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C is for the leader
    )
    theirs.close()
    return _Follower(rank, process, ours)


def _end(follower: _Follower, thread: threading.Thread) -> None:
    """Wait for it to end, for a while; then end it."""
    if thread.is_alive():
        thread.join(_STOP_SECONDS)
    if follower.process.poll() is None:
        follower.process.kill()
        follower.process.wait()
    follower.orders.close()
    assert follower.process.stdin is not None
    follower.process.stdin.close()
