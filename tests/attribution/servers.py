"""The receivers as real processes, on the tests' own database."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

from django.db import connection

from tests.embedded.waiting import eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A program that listens on a port; killed and started again, it listens on the same."""

    command: tuple[str, ...]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self.command],
            env={**os.environ, "DATABASE_URL": _database_url(), **self.environment},
            start_new_session=True,
            text=True,
        )
        eventually(f"{self.command[0]} listens", self._listens, 60)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """kill -9, its children too."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)

    def stop(self) -> int:
        """Asked to end; what it ended with."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=60)


def http_server(**environment: str) -> Server:
    port = free_port()
    command = (
        *("gunicorn", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"),
        *("--threads", "24", "--no-control-socket", "--log-level", "warning"),
        "costwatch.attribution.receive:application",
    )
    return Server(command, port, environment)


def grpc_server(**environment: str) -> Server:
    port = free_port()
    command = ("costwatch", "receive_grpc", "--bind", f"127.0.0.1:{port}")
    return Server(command, port, environment)


def _database_url() -> str:
    said = connection.settings_dict
    user, password = (quote(said[part], safe="") for part in ("USER", "PASSWORD"))
    return f"postgresql://{user}:{password}@{said['HOST']}:{said['PORT']}/{said['NAME']}"
