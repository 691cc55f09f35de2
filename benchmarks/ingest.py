"""How many calls per second go from the first byte to the rollups, beside a raw COPY of the same ledger rows.

    python -m benchmarks.ingest [--bodies 60] [--rounds 3] [--senders 2]

Real parts: the OTLP door in its own server process, a Celery worker on the embedded Postgres' own broker, bodies of
512 spans as an instrumented client sends them. Each round measures the service and then COPY of the rows that the
round wrote, into a bare table in the same database, so that a machine that slows down slows both.
"""

import argparse
import http.client
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPANS = 512
_PATIENCE_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=60, help="of 512 spans, a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--senders", type=int, default=2)
    options = parser.parse_args()
    with ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="costwatch-bench-")))
        data_dir.chmod(0o755)
        url, port, key = stack.enter_context(_service(data_dir))
        rounds = [_round(url, port, key, options) for _ in range(options.rounds + 1)][1:]
    _print(rounds, options)


@contextmanager
def _service(data_dir: Path) -> Iterator[tuple[str, int, str]]:
    """Postgres, the OTLP door and a worker; yields the database's URL, the door's port and an ingest key."""
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
        port = _free_port()
        stack.enter_context(
            _process(
                "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--worker-class", "gthread", "--threads", "24",
                "--no-control-socket", "--log-level", "warning", "costwatch.attribution.receive:application",
            )
        )  # fmt: skip
        stack.enter_context(
            _process(
                "celery", "-A", "costwatch.celery", "worker", "--pool", "solo", "--beat",
                "--without-gossip", "--without-mingle", "--loglevel", "WARNING",
                "--schedule", str(data_dir / "beat"),
            )
        )  # fmt: skip
        _wait_for(port)
        yield url, port, key


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _costwatch(*arguments: str) -> str:
    command = [sys.executable, "-m", "costwatch", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port} after {_PATIENCE_SECONDS} s")


def _body() -> bytes:
    """512 spans as opentelemetry-instrumentation-openai-v2 makes them, tagged by collectors, every call its own."""
    message = ExportTraceServiceRequest()
    of_resource = message.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = of_resource.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai_v2"
    now_ns = time.time_ns()
    for number in range(SPANS):
        span = scope.spans.add(
            trace_id=secrets.token_bytes(16),
            span_id=secrets.token_bytes(8),
            name="chat gpt-4o",
            kind=3,
            start_time_unix_nano=now_ns - 1_700_000_000 - number,
            end_time_unix_nano=now_ns - number,
        )
        texts = {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06",
            "gen_ai.response.id": f"chatcmpl-{secrets.token_hex(14)}",
            "gen_ai.response.finish_reasons": "stop",
            "gen_ai.openai.request.service_tier": "auto",
            "server.address": "api.openai.com",
            "costwatch.team": f"team-{number % 8}",
            "costwatch.feature": f"feature-{number % 5}",
            "user.id": f"user-{number}",
            "session.id": f"session-{number // 4}",
        }
        counts = {
            "gen_ai.usage.input_tokens": 1000 + number,
            "gen_ai.usage.output_tokens": 80 + number % 50,
            "gen_ai.usage.cache_read.input_tokens": 512,
            "gen_ai.request.max_tokens": 400,
            "server.port": 443,
        }
        for name, text in texts.items():
            span.attributes.add(key=name).value.string_value = text
        for name, count in counts.items():
            span.attributes.add(key=name).value.int_value = count
        span.attributes.add(key="gen_ai.request.temperature").value.double_value = 0.2
    return message.SerializeToString()


def _round(
    url: str, port: int, key: str, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Calls per second until visible and until acknowledged, and rows per second of COPY, of one round."""
    bodies = [_body() for _ in range(options.bodies)]
    calls = SPANS * len(bodies)
    with psycopg.connect(url, autocommit=True) as connection:
        before = _visible(connection)
        begun = time.perf_counter()
        with ThreadPoolExecutor(options.senders) as senders:
            list(senders.map(lambda part: _send(port, key, part), _split(bodies, options.senders)))
        acknowledged = time.perf_counter() - begun
        while _visible(connection) < before + calls:
            if time.perf_counter() - begun > _PATIENCE_SECONDS:
                raise TimeoutError("the calls did not become visible")
            time.sleep(0.01)
        visible = time.perf_counter() - begun
        return calls / visible, calls / acknowledged, _copy(connection, calls)


def _split(bodies: Sequence[bytes], parts: int) -> list[Sequence[bytes]]:
    return [bodies[part::parts] for part in range(parts)]


def _send(port: int, key: str, bodies: Sequence[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {key}"}
    for body in bodies:
        connection.request("POST", "/v1/traces", body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {said!r}")
    connection.close()


def _visible(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT coalesce(sum(calls), 0) FROM attribution_usagehour").fetchone()
    return int(row[0]) if row else 0


def _copy(connection: psycopg.Connection, calls: int) -> float:
    """Rows per second of writing the round's ledger rows once more, with COPY and nothing else."""
    connection.execute("CREATE TABLE IF NOT EXISTS bare (LIKE attribution_entry)")
    connection.execute("TRUNCATE bare")
    newest = "SELECT * FROM attribution_entry ORDER BY batch_id DESC LIMIT %s"
    rows = connection.execute(newest, [calls]).fetchall()
    begun = time.perf_counter()
    with connection.cursor().copy("COPY bare FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    return len(rows) / (time.perf_counter() - begun)


def _print(rounds: Sequence[tuple[float, float, float]], options: argparse.Namespace) -> None:
    visible, acknowledged, copied = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    ratios = [round_[0] / round_[2] for round_ in rounds]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
          f"Python {platform.python_version()}: {options.rounds} rounds of {options.bodies} bodies "
          f"of {SPANS} spans, {options.senders} senders")  # fmt: skip
    print()
    print("| measure | median |")
    print("|---|---|")
    print(f"| calls/s, first byte to visible in the rollups | {visible:,.0f} |")
    print(f"| calls/s, first byte to acknowledged | {acknowledged:,.0f} |")
    print(f"| rows/s, raw COPY of the same ledger rows | {copied:,.0f} |")
    print(
        f"| visible / COPY | {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) |"
    )


if __name__ == "__main__":
    main()
