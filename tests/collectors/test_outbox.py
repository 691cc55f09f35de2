"""Telemetry on disk: the oldest is kept, what finds no room is counted, and processes share the folder."""

import gzip
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from collectors.outbox import LONGEST_PAUSE_SECONDS, Outbox, open_outbox, remove
from collectors.sender import retry_after
from tests.collectors.programs import ROOT


def test_bodies_wait_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(20):
        assert outbox.put("traces" if number % 2 else "metrics", b"%d" % number, number)
    waiting = Outbox(tmp_path).waiting()
    assert [each.path.read_bytes() for each in waiting] == [b"%d" % number for number in range(20)]
    assert [each.items for each in waiting] == list(range(20))
    assert [each.kind for each in waiting[:2]] == ["metrics", "traces"]


@given(st.lists(st.integers(0, 60), max_size=30))
def test_a_full_outbox_keeps_the_oldest_and_counts_the_rest(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    outbox = Outbox(tmp_path_factory.mktemp("outbox"), limit_bytes=100)
    kept = [outbox.put("traces", bytes(size), 1) for size in sizes]
    used = 0
    for size, is_kept in zip(sizes, kept, strict=True):
        assert is_kept == (used + size <= 100)
        used += size if is_kept else 0
    assert outbox.dropped_items == kept.count(False)
    assert sum(each.size_bytes for each in outbox.waiting()) == used


def test_what_is_dropped_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(tmp_path, limit_bytes=10)
    outbox.put("traces", bytes(10), 3)
    with caplog.at_level(logging.WARNING):
        assert not outbox.put("traces", bytes(10), 4)
        assert not outbox.put("metrics", bytes(10), 5)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "costwatch dropped 4 traces",
        "costwatch dropped 5 metrics",
    ]
    assert caplog.records[1].getMessage().endswith("9 dropped since the start")


def test_half_written_bodies_are_never_sent_and_swept_later(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    old, new = tmp_path / "1-1-1-1.traces.half", tmp_path / "2-1-1-1.traces.half"
    for half in (old, new):
        half.write_bytes(b"half")
    os.utime(old, (1, 1))
    outbox.sweep()
    assert outbox.waiting() == []
    assert list(tmp_path.glob("*.half")) == [new]


def test_one_sends_at_a_time_and_a_dead_sender_leaves_no_lock(tmp_path: Path) -> None:
    outbox, other = Outbox(tmp_path), Outbox(tmp_path)
    with outbox.sending() as is_ours, other.sending() as is_others:
        assert (is_ours, is_others) == (True, False)
    code = (
        "import sys, time; from pathlib import Path; from collectors.outbox import Outbox\n"
        "with Outbox(Path(sys.argv[1])).sending() as ours: print(ours, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with outbox.sending() as is_ours:
        assert not is_ours
    process.kill()
    process.wait()
    process.stdout.close()
    with outbox.sending() as is_ours:
        assert is_ours


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_sending_does_not_hold_the_lock(tmp_path: Path) -> None:
    outbox, other = Outbox(tmp_path), Outbox(tmp_path)
    reading, writing = os.pipe()
    has_forgotten, forgets = os.pipe()
    with outbox.sending():
        pid = os.fork()
        if not pid:
            os.close(writing)
            outbox.forget_lock()
            os.write(forgets, b".")
            os.read(reading, 1)  # until the parent is done
            os._exit(0)
        os.read(has_forgotten, 1)
    with other.sending() as is_ours:
        assert is_ours
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    for handle in (reading, has_forgotten, forgets):
        os.close(handle)


def test_a_pause_is_shared_and_ends(tmp_path: Path) -> None:
    outbox, other = Outbox(tmp_path), Outbox(tmp_path)
    assert other.pause_seconds() == 0
    outbox.pause_until(time.time() + 100)
    assert 90 < other.pause_seconds() <= 100
    outbox.pause_until(time.time() + 10**9)  # the clock has been set back since
    assert other.pause_seconds() == LONGEST_PAUSE_SECONDS
    assert Outbox(tmp_path).pause_seconds() == 0  # a new process tries at once


def test_a_body_that_somebody_else_sent_is_no_error(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("traces", gzip.compress(b""), 1)
    [waiting] = outbox.waiting()
    remove(waiting)
    remove(waiting)
    assert outbox.waiting() == []


def test_the_folder_is_this_users_alone_and_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COSTWATCH_OUTBOX", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = open_outbox("one").folder
    assert folder == tmp_path / "state" / "costwatch" / "outbox" / "one"
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("COSTWATCH_OUTBOX", str(tmp_path / "named"))
    assert open_outbox("one").folder == tmp_path / "named" / "one"
    (tmp_path / "file").touch()
    monkeypatch.setenv("COSTWATCH_OUTBOX", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        open_outbox("one")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("Mon, 23 Nov 2026 00:01:00 GMT", 60),
        ("Sun, 22 Nov 2026 00:00:00 GMT", 0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(said: str | None, expected: float | None) -> None:
    assert retry_after(said, now=lambda: 1_795_392_000.0) == expected


def test_what_waits_for_another_receiver_is_found_once_nobody_sends_it(tmp_path: Path) -> None:
    other, ours, unknown = (Outbox(tmp_path / name) for name in ("other", "ours", "unknown"))
    other.say_receiver("http://me:secret@old.example:4318/v1/traces")
    with time_machine.travel(time.time() - 3600):
        for outbox in (other, ours, unknown):
            outbox.put("traces", b"long ago", 3)
            outbox.put("metrics", b"long ago", 4)
    other.put("traces", b"a moment ago", 5)
    (tmp_path / "of somebody else").mkdir()
    assert [(left.receiver, left.items, left.folder) for left in ours.left_beside()] == [
        ("http://old.example:4318/v1/traces", 7, other.folder),
        ("a receiver that an earlier version sent to", 7, unknown.folder),
    ]
    for body in other.waiting():
        remove(body)
    assert [left.folder for left in ours.left_beside()] == [unknown.folder]
