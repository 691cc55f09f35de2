"""Keeps the programs up: supervisord as our child, told over its socket what to start."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from costwatch.embedded.postgres import write_private
from costwatch.embedded.stack import Program

_PR_SET_PDEATHSIG = 1
_LEFT_SECONDS = 10
_SUPERVISORD = """
[supervisord]
nodaemon=true
silent=true
logfile={log}/supervisord.log
logfile_maxbytes=5MB
loglevel=info
pidfile={run}/supervisord.pid
{user}

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
# startretries: a program that needs Postgres may have to come again until that is back.
_PROGRAM = """
[program:{name}]
command={command}
environment={environment}
directory={directory}
autostart=false
autorestart=true
startsecs=1
startretries=30
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
stopasgroup=false
killasgroup=true
priority={priority}
redirect_stderr=true
stdout_logfile={log}/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


class Supervisor:
    """supervisord with these programs, none started yet. Leaving the block stops all of them."""

    def __init__(
        self, data: Path, programs: Sequence[Program], environment: Mapping[str, str]
    ) -> None:
        self._log = data / "log"
        self._run = data / "run"
        for folder in (self._log, self._run):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # logs name customers, and say what went wrong
        # A socket's path may be 107 characters long at most, a data folder's is anybody's guess.
        self._sockets = tempfile.TemporaryDirectory(prefix="costwatch-")
        self._socket = str(Path(self._sockets.name) / "supervisor")
        self._config = self._run / "supervisord.conf"
        write_private(self._config, self._configuration(programs))
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._server: Any = None

    def __enter__(self) -> Supervisor:
        with (self._log / "supervisord.err").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._config)],
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C in the terminal is for us; we stop it in order
                preexec_fn=_end_with_parent,
            )
        self._wait_for_socket()
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        self._server = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server("close")()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=90)
            _end_session(self._process.pid)
        self._sockets.cleanup()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, name: str) -> None:
        """Start a program, without waiting until it is ready."""
        self._server.supervisor.startProcess(name, False)

    def states(self) -> dict[str, str]:
        """STARTING, RUNNING, BACKOFF, FATAL, … by program."""
        return {
            row["name"]: row["statename"] for row in self._server.supervisor.getAllProcessInfo()
        }

    def last_lines(self, name: str, lines: int = 15) -> str:
        """The end of a program's log."""
        log = self._log / f"{name}.log"
        return (
            "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
        )

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _wait_for_socket(self) -> None:
        until = time.monotonic() + 20
        while not Path(self._socket).is_socket():
            if time.monotonic() > until or not self.alive():
                said = (self._log / "supervisord.err").read_text()
                raise RuntimeError(f"supervisord did not start: {said}")
            time.sleep(0.05)

    def _configuration(self, programs: Sequence[Program]) -> str:
        # Run as root, supervisord warns unless it is told that this is meant.
        user = "user=root" if os.geteuid() == 0 else ""
        head = _SUPERVISORD.format(log=self._log, run=self._run, socket=self._socket, user=user)
        return head + "".join(
            _PROGRAM.format(
                name=program.name,
                command=_escaped(shlex.join(program.command)),
                environment=",".join(
                    f'{name}="{_escaped(value)}"' for name, value in program.environment.items()
                ),
                directory=Path.cwd(),
                stop_signal=program.stop_signal,
                stop_seconds=program.stop_seconds,
                priority=program.priority,
                log=self._log,
            )
            for program in programs
        )


def _end_session(leader: int) -> None:
    """End what a supervisor left behind that was itself killed: its programs are still of its session."""
    left = [process for process in psutil.process_iter() if _session_of(process.pid) == leader]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(left, timeout=_LEFT_SECONDS)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _escaped(value: str) -> str:
    """supervisord reads % as the beginning of a substitution."""
    return value.replace("%", "%%")


def _end_with_parent() -> None:
    """Should `costwatch up` be killed, its supervisor is told to stop. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
