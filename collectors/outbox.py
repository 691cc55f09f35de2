"""Telemetry that waits to be sent: a folder of OTLP bodies, so that it outlives the receiver's outage and this process.

    <folder>/<time>-<process>-<number>-<items>.traces    one gzipped body; the names sort by age
    <folder>/lock                                        held by whoever is sending; its time says when to try again
    <folder>/receiver                                    for whom it is, without the key: for people who find it

A body is written under another name and renamed, so nobody sends half of one. Whoever sends deletes after the answer:
a crash between the two sends a body twice, which the receiver counts once. Several processes share a folder.
"""

import itertools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

try:
    import fcntl
except ImportError:  # Windows: two senders at once, whose bodies the receiver counts once
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

DEFAULT_LIMIT_BYTES = 64 * 1024 * 1024
MAX_BODIES = 20_000  # so that a listing stays short however small the bodies are
KINDS = ("traces", "metrics")
_RECEIVER = "receiver"
LONGEST_PAUSE_SECONDS = 3600.0
_HALF_WRITTEN_SECONDS = 3600
_WAITED_SECONDS = 60  # who sends there has had its turn, or cannot


@dataclass(frozen=True, slots=True)
class Waiting:
    """One body in the folder."""

    path: Path
    size_bytes: int

    @property
    def kind(self) -> str:
        """ "traces" or "metrics"."""
        return self.path.suffix[1:]

    @property
    def kept_unix_ns(self) -> int:
        """When it was put there."""
        return int(self.path.name.partition("-")[0])

    @property
    def items(self) -> int:
        """Spans or metrics in it."""
        return int(self.path.stem.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Left:
    """What waits in another outbox beside ours: for another receiver, or under another key."""

    folder: Path
    receiver: str
    items: int

    def __str__(self) -> str:
        return (
            f"{self.items} spans and metrics wait for {self.receiver}, with another endpoint or key than this;"
            f" a program that is started with these sends them, or remove {self.folder}"
        )


class Outbox:
    """A folder of bodies, bounded in size: the oldest stay, and what finds no room is counted and dropped."""

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Makes the folder where there is none, for this user only. Raises OSError where it cannot."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user; name one in COSTWATCH_OUTBOX")
        self.folder = folder
        self.dropped_items = 0
        self._limit_bytes = limit_bytes
        self._numbers = itertools.count()
        self._lock = folder / "lock"
        self._lock.touch(mode=0o600)
        self._held: int | None = None
        self._writing = threading.Lock()

    def put(self, kind: str, body: bytes, items: int) -> bool:
        """Keep a body until it is sent. False where there is no room for it, or the disk refuses it: it is dropped."""
        with self._writing:
            try:
                waiting = self.waiting()
                used_bytes = sum(each.size_bytes for each in waiting)
                if used_bytes + len(body) <= self._limit_bytes and len(waiting) < MAX_BODIES:
                    self._write(kind, body, items)
                    return True
                why = (
                    f"{used_bytes} bytes wait in {self.folder}, which may hold {self._limit_bytes}"
                )
            except OSError as error:
                why = str(error)
        self.drop(kind, items, why)
        return False

    def drop(self, kind: str, items: int, why: str) -> None:
        """Count what could not be kept, and say so."""
        with self._writing:
            self.dropped_items += items
            dropped = self.dropped_items
        logger.warning(
            "costwatch dropped %d %s: %s; %d dropped since the start", items, kind, why, dropped
        )

    def _write(self, kind: str, body: bytes, items: int) -> None:
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers)}-{items}.{kind}"
        half = self.folder / f"{name}.half"
        try:
            half.write_bytes(body)
            half.rename(self.folder / name)
        except OSError:
            half.unlink(missing_ok=True)
            raise

    def waiting(self) -> list[Waiting]:
        """What waits, the oldest first."""
        return _waiting_in(self.folder)

    def say_receiver(self, url: str) -> None:
        """Write down for whom this is; whoever finds it after the endpoint was changed wants to know."""
        parts = urlsplit(url)
        known = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        with suppress(OSError):
            (self.folder / _RECEIVER).write_text(known)

    def left_beside(self) -> list[Left]:
        """What has been waiting in other outboxes next to this one for longer than sending takes."""
        found = []
        with suppress(OSError):
            for folder in sorted(self.folder.parent.iterdir()):
                if folder != self.folder and (folder / "lock").exists():
                    found += _left_in(folder)
        return found

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """True while this process alone may send; False where another one does."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held = handle
        try:
            yield _locks(handle)
        finally:
            self._held = None
            os.close(handle)

    def forget_lock(self) -> None:
        """For a forked child: what the parent holds would be held by the child, too, and by it for ever."""
        held, self._held = self._held, None
        self._writing = threading.Lock()
        if held is not None:
            os.close(held)

    def pause_until(self, unix_seconds: float) -> None:
        """Have every process that shares the folder wait with sending."""
        with suppress(OSError):
            os.utime(self._lock, (unix_seconds, unix_seconds))

    def pause_seconds(self) -> float:
        """How long to wait with sending, because some process was told to, or found nobody there."""
        try:
            seconds = self._lock.stat().st_mtime - time.time()
        except OSError:
            return 0.0
        return min(max(0.0, seconds), LONGEST_PAUSE_SECONDS)  # the clock may have been set back

    def sweep(self) -> None:
        """Remove what a process that was killed in mid-writing left behind."""
        for half in self.folder.glob("*.half"):
            with suppress(OSError):
                if time.time() - half.stat().st_mtime > _HALF_WRITTEN_SECONDS:
                    half.unlink()


def _waiting_in(folder: Path) -> list[Waiting]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(tuple(f".{kind}" for kind in KINDS)):
                with suppress(FileNotFoundError):  # somebody else has sent it meanwhile
                    found.append(Waiting(Path(entry.path), entry.stat().st_size))
    return sorted(found, key=lambda each: each.path.name)


def _left_in(folder: Path) -> list[Left]:
    """Nothing, or one."""
    until_ns = time.time_ns() - _WAITED_SECONDS * 10**9
    with suppress(OSError, ValueError):  # another user's, or of somebody else's making
        items = [each.items for each in _waiting_in(folder) if each.kept_unix_ns < until_ns]
        if items:
            return [Left(folder, _receiver_of(folder), sum(items))]
    return []


def _receiver_of(folder: Path) -> str:
    try:
        return (folder / _RECEIVER).read_text()
    except OSError:
        return "a receiver that an earlier version sent to"


def _locks(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove(waiting: Waiting) -> None:
    """It has been sent, or will never be taken."""
    waiting.path.unlink(missing_ok=True)


def open_outbox(name: str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Outbox:
    """The outbox of that name in COSTWATCH_OUTBOX, else among this user's state, else where this machine lets us write.

    Raises OSError where nothing can be written anywhere, or not in the folder that was named.
    """
    named = os.environ.get("COSTWATCH_OUTBOX")
    if named:
        return Outbox(Path(named) / name, limit_bytes)
    for folder in _folders():
        with suppress(OSError):
            return Outbox(folder / name, limit_bytes)
    raise OSError("no folder to keep telemetry in can be written; name one in COSTWATCH_OUTBOX")


def _folders() -> Iterator[Path]:
    state = os.environ.get("XDG_STATE_HOME")
    with suppress(RuntimeError):  # a user without a home
        yield (Path(state) if state else Path.home() / ".local" / "state") / "costwatch" / "outbox"
    with suppress(FileNotFoundError):
        yield Path(tempfile.gettempdir()) / f"costwatch-outbox-{os.getuid()}"
    yield Path("/dev/shm") / f"costwatch-outbox-{os.getuid()}"  # noqa: S108  a container whose disk is read-only
