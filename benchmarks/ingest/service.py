"""The service under load: Postgres, the OTLP door in two processes, a Celery worker with the embedded broker."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

PATIENCE_SECONDS = 300
RECEIVERS = 2


@dataclass(frozen=True, slots=True)
class Service:
    database_url: str
    port: int
    key: str
    door: psutil.Process

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.database_url, autocommit=True)

    def receiver_bytes(self) -> int:
        """Resident memory of the receivers, without their supervisor."""
        return sum(worker.memory_info().rss for worker in self.door.children())


@contextmanager
def service(data_dir: Path) -> Iterator[Service]:
    from costwatch.embedded.postgres import install_pgmq, running

    with ExitStack() as stack:
        url = stack.enter_context(running(data_dir / "postgres"))
        install_pgmq(url)
        os.environ.update(
            DATABASE_URL=url, COSTWATCH_SECRET_KEY="benchmark", COSTWATCH_LOG_LEVEL="WARNING"
        )
        _costwatch("migrate", "--verbosity", "0")
        _costwatch("create_organization", "Benchmark")
        key = _costwatch("create_key", "--organization", "Benchmark")
        port = free_port()
        door = stack.enter_context(
            process(
                [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", str(RECEIVERS),
                 "--worker-class", "gthread", "--threads", "24", "--no-control-socket", "--log-level", "warning",
                 "costwatch.attribution.receive:application"]
            )
        )  # fmt: skip
        stack.enter_context(
            process(
                [sys.executable, "-m", "celery", "-A", "costwatch.celery", "worker", "--pool", "solo", "--beat",
                 "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR",
                 "--schedule", str(data_dir / "beat")],
                log=data_dir / "worker.log",
            )
        )  # fmt: skip
        wait_for(port)
        yield Service(url, port, key, psutil.Process(door.pid))


@contextmanager
def process(
    command: Sequence[str], *, log: Path | None = None, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block takes. log: where its output goes instead of ours."""
    with ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else None
        started = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=out, stderr=out
        )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(timeout=60)


def _costwatch(*arguments: str) -> str:
    command = [sys.executable, "-m", "costwatch", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port} after {PATIENCE_SECONDS} s")
