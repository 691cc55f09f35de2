"""The same bodies to arize-phoenix's own server, on its default SQLite.

It lives in an environment of its own (`python -m venv phoenix && phoenix/bin/pip install arize-phoenix`). It answers before it
stores, so what is measured is until the last span is in its database.
"""

import http.client
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ingest.bodies import SPANS, body
from benchmarks.ingest.service import PATIENCE_SECONDS, free_port, process, wait_for


@dataclass(frozen=True, slots=True)
class Phoenix:
    version: str
    port: int
    database: Path

    def spans(self) -> int:
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30) as connection:
            return int(connection.execute("SELECT count(*) FROM spans").fetchone()[0])


@contextmanager
def phoenix(environment: Path, data_dir: Path) -> Iterator[Phoenix]:
    """environment: the folder of the virtual environment that has it."""
    version = subprocess.run(
        [environment / "bin/python", "-c", "from importlib.metadata import version as v; print(v('arize-phoenix'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    port, folder = free_port(), data_dir / "phoenix"
    folder.mkdir()
    settings = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PYTHONPATH": "",
    }
    with process([str(environment / "bin/phoenix"), "serve"], log=folder / "log", **settings):
        wait_for(port)
        yield Phoenix(version, port, folder / "phoenix.db")


def burst(server: Phoenix, bodies: int) -> float:
    """Spans per second until they are stored."""
    made = [body() for _ in range(bodies)]
    before = server.spans()
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    for each in made:
        connection.request("POST", "/v1/traces", each, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"Phoenix answered {answer.status}: {answer.read()!r}")
        answer.read()
    while server.spans() < before + SPANS * bodies:
        if time.perf_counter() - begun > PATIENCE_SECONDS:
            raise TimeoutError("Phoenix did not store the spans")
        time.sleep(0.1)
    return SPANS * bodies / (time.perf_counter() - begun)
