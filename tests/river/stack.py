"""The whole stack on free ports, as `costwatch up` starts it, and a mail server beside it."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, TextIO

import psutil
import psycopg
import pytest
from aiosmtpd.handlers import Message


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: str, check: Callable[[], Any], seconds: float) -> Any:
    """What the check returns once that is true; fails with what was waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := check():
            return found
        time.sleep(0.3)
    pytest.fail(f"{what}: not within {seconds} s")


def _connection(url: str) -> psycopg.Connection[Any] | None:
    try:
        return psycopg.connect(url)
    except psycopg.OperationalError:
        return None


class Mailbox(Message):
    """A real SMTP server's mail, as it arrived."""

    def __init__(self) -> None:
        super().__init__(EmailMessage)
        self.mails: list[EmailMessage] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)


@dataclass
class Stack:
    """`costwatch up` on free ports, with its own data."""

    data: Path
    environment: dict[str, str]
    web: int = field(default_factory=free_port)
    otlp: int = field(default_factory=free_port)
    grpc: int = field(default_factory=free_port)
    runtime: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    said: str = ""

    def up(self) -> None:
        with (self.data.parent / "up.log").open("w") as log:
            self.process = self._start(log)
        eventually("the stack is up", self._is_up, 180)

    def _start(self, log: TextIO) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "costwatch", "up", "--no-demo"),
                *("--port", str(self.web), "--otlp-port", str(self.otlp)),
                *("--grpc-port", str(self.grpc), "--runtime-port", str(self.runtime)),
                *("--data", str(self.data)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail((self.data.parent / "up.log").read_text())
        return self._answers(f"http://127.0.0.1:{self.web}/login/") and self._answers(
            f"http://127.0.0.1:{self.runtime}/health"
        )

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def down(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)

    def database_url(self) -> str:
        from costwatch.embedded.postgres import prepare

        return prepare(self.data / "postgres").url

    def connect(self) -> psycopg.Connection[Any]:
        """A connection, once Postgres is back where it was killed."""
        return eventually("Postgres answers", lambda: _connection(self.database_url()), 60)

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "costwatch", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def get(self, path: str, token: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web}/api/v1{path}",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def processes(self) -> list[psutil.Process]:
        """Every process that `up` started."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self, *words: str) -> None:
        """kill -9 of the processes whose command line has all these words."""
        killed = 0
        for process in self.processes():
            try:
                command = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if all(word in command for word in words):
                process.kill()
                killed += 1
        assert killed, f"no process with {words}"

    def audit(self) -> str:
        """What `costwatch audit` says of itself; fails on a difference."""
        done = subprocess.run(
            [sys.executable, "-m", "costwatch", "audit"],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stderr
