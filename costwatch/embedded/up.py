"""`costwatch up`: everything on one machine, in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from django.core.exceptions import ImproperlyConfigured

from costwatch import env
from costwatch.embedded import postgres, stack
from costwatch.embedded.stack import Options, Secrets, model_name
from costwatch.embedded.supervise import Supervisor

EMAIL = "admin@localhost"
DEMO_ORGANIZATION = "Demo"
BARE_ORGANIZATION = "My organization"

_READY_SECONDS = 240
_FAILING_SECONDS = 20  # a program that needs another may fail once or twice before that is there


class CannotStart(RuntimeError):
    """Something in the way; the message says what to do."""


class _Stop(Exception):
    """Ctrl-C or SIGTERM."""


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, _stop)
    try:
        return _up(options)
    except (CannotStart, postgres.PostgresFailed, ImproperlyConfigured) as error:
        print(f"costwatch: {error}", file=sys.stderr)
        return 1
    except _Stop:
        print("stopped", flush=True)
        return 0


def _options(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="costwatch up", description="Starts everything on this machine, until Ctrl-C."
    )
    parser.add_argument("--port", type=int, default=8000, help="of the pages and the API")
    parser.add_argument("--otlp-port", type=int, default=4318, help="where telemetry is sent")
    parser.add_argument(
        "--grpc-port", type=int, help="where it is sent by gRPC; one below --otlp-port, if free"
    )
    parser.add_argument("--runtime-port", type=int, default=8100, help="of the bundled runtime")
    parser.add_argument("--data", type=Path, default=Path(".data"), help="folder that keeps it all")
    parser.add_argument("--no-runtime", action="store_true", help="without the bundled runtime")
    parser.add_argument("--no-demo", action="store_true", help="without the demo organization")
    said = parser.parse_args(arguments)
    return Options(
        data=said.data.absolute(),
        port=said.port,
        otlp_port=said.otlp_port,
        grpc_port=_grpc_port(said),
        runtime_port=said.runtime_port,
        runtime=not said.no_runtime,
        demo=not said.no_demo and not said.no_runtime,
    )


def _grpc_port(said: argparse.Namespace) -> int | None:
    """4317 beside 4318. Without --grpc-port nobody counts on it: a port in use is then no reason not to start."""
    if said.grpc_port is not None:
        return int(said.grpc_port)
    beside = max(said.otlp_port - 1, 0)
    is_ours = beside and beside in {said.port, said.runtime_port}
    return beside if not is_ours and postgres.is_free(beside) else None


def _stop(_number: int, _frame: FrameType | None) -> None:
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)  # once is enough; what follows is in order
    raise _Stop


def _up(options: Options) -> int:
    begun = time.monotonic()
    options.data.mkdir(parents=True, exist_ok=True)  # Postgres' own user passes through it
    lock = _lock(options.data)
    _check_ports(options)
    kept = Secrets.load(options.data)
    given = env.text("DATABASE_URL")
    cluster = None if given else postgres.prepare(options.data / "postgres")
    environment = stack.environment(options, kept, given or (cluster.url if cluster else ""))
    programs = stack.programs(options, kept)
    with Supervisor(options.data, programs, environment) as supervisor:
        if options.runtime:
            supervisor.start("runtime")  # it loads its model while the rest gets ready
        if cluster:
            supervisor.start("postgres")
            postgres.wait_ready(cluster)
            _say(begun, "Postgres is ready")
        _prepare(options, environment)
        _say(begun, "tables, price catalogue and organization are ready")
        for program in programs:
            if program.name not in {"postgres", "runtime", "demo"}:
                supervisor.start(program.name)
        _wait_until_ready(supervisor, options, begun)
        if options.demo:
            supervisor.start("demo")
        _say(begun, "everything is ready")
        _show(options, kept)
        _watch(supervisor)
    os.close(lock)
    return 0


def _lock(data: Path) -> int:
    """Hold the data folder, or say that another one does."""
    handle = os.open(data / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CannotStart(
            f"another `costwatch up` runs on {data}; stop it, or name another folder with --data"
        ) from None
    return handle


def _check_ports(options: Options) -> None:
    wanted = {"--port": options.port, "--otlp-port": options.otlp_port}
    if options.grpc_port is not None:
        wanted["--grpc-port"] = options.grpc_port
    if options.runtime:
        wanted["--runtime-port"] = options.runtime_port
    for option, port in wanted.items():
        if not postgres.is_free(port):
            raise CannotStart(
                f"port {port} is in use; stop what listens there, or choose another with {option}"
            )


def _prepare(options: Options, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "costwatch", "prepare", *(["--demo"] if options.demo else [])]
    secrets_file = {"COSTWATCH_EMBEDDED_SECRETS": str(options.data / "secrets.json")}
    done = subprocess.run(
        command, env={**environment, **secrets_file}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotStart(f"the database could not be prepared:\n{done.stdout}{done.stderr}")


def _say(begun: float, what: str) -> None:
    print(f"[{time.monotonic() - begun:5.1f} s] {what}", flush=True)


def _wait_until_ready(supervisor: Supervisor, options: Options, begun: float) -> None:
    doors: dict[str, Callable[[], bool]] = {
        "web": lambda: _answers(f"http://127.0.0.1:{options.port}/health"),
        "receiver": lambda: _listens(options.otlp_port),
    }
    if options.grpc_port is not None:
        grpc_port = options.grpc_port
        doors["receiver-grpc"] = lambda: _listens(grpc_port)
    if options.runtime:
        doors["runtime"] = lambda: _answers(f"{options.runtime_url}/health")
    until = time.monotonic() + _READY_SECONDS
    told = ""
    failing: dict[str, float] = {}
    while doors:
        for name in [name for name, is_ready in doors.items() if is_ready()]:
            del doors[name]
            _say(begun, f"{name} is ready")
        _fail_on_failing(supervisor, failing)
        if time.monotonic() > until:
            name = next(iter(doors))
            raise CannotStart(
                f"{name} is not ready after {_READY_SECONDS} s; its last lines:\n"
                f"{supervisor.last_lines(name)}"
            )
        if "runtime" in doors and (last := supervisor.last_lines("runtime", 1)) not in {"", told}:
            told = last
            _say(begun, f"runtime: {last}")
        time.sleep(0.1)


def _fail_on_failing(supervisor: Supervisor, failing: dict[str, float]) -> None:
    """Raise CannotStart for a program that has not stayed up for a while. `failing` is since when, by program."""
    now = time.monotonic()
    for name, state in supervisor.states().items():
        if state not in {"BACKOFF", "FATAL"}:
            if state == "RUNNING":
                failing.pop(name, None)
            continue
        if state == "FATAL" or now - failing.setdefault(name, now) > _FAILING_SECONDS:
            raise CannotStart(
                f"{name} cannot stay up; its last lines:\n{supervisor.last_lines(name)}"
            )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own loopback
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _show(options: Options, kept: Secrets) -> None:
    print(f"\n  Pages   {options.web_url}")
    print(f"  Login   {EMAIL}   password {kept.password}")
    print(f"  OTLP    {options.otlp_url}   (HTTP, protobuf or JSON)")
    if options.grpc_port is None:
        print(
            f"          not by gRPC: port {options.otlp_port - 1} is in use; choose with --grpc-port"
        )
    else:
        print(f"          http://127.0.0.1:{options.grpc_port}   (gRPC)")
    if options.runtime:
        print("\n  Try it:\n")
        print(
            f"  curl {options.runtime_url}/v1/chat/completions -H 'Content-Type: application/json' "
            f"""-d '{{"model": "{model_name()}", "messages": [{{"role": "user", """
            """"content": "What is the capital of France?"}], "max_tokens": 40, "temperature": 0}'"""
        )
    print("\n  Ctrl-C stops everything.\n", flush=True)


def _watch(supervisor: Supervisor) -> None:
    """Stay until Ctrl-C; say which program went down for good."""
    told: set[str] = set()
    while supervisor.alive():
        try:
            states = supervisor.states()
        except (OSError, http.client.HTTPException):
            break  # it ended just now
        for name, state in states.items():
            if state == "FATAL" and name not in told:
                told.add(name)
                print(
                    f"costwatch: {name} cannot stay up; its last lines:\n{supervisor.last_lines(name)}",
                    file=sys.stderr,
                    flush=True,
                )
        time.sleep(1)
    raise CannotStart("the supervisor ended; its log is supervisord.log in the data folder")
