"""What `costwatch up` refuses, and how it says so. The way of a request through it all is in tests/river."""

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from costwatch.embedded.up import _options


def up(data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {n: v for n, v in os.environ.items() if n not in {"DATABASE_URL", "CELERY_BROKER_URL"}}
    return subprocess.run(
        [sys.executable, "-m", "costwatch", "up", "--data", str(data), *arguments],
        env={**given, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("option", ["--port", "--otlp-port", "--grpc-port", "--runtime-port"])
def test_a_port_in_use_is_named_with_the_option_that_changes_it(
    tmp_path: Path, option: str
) -> None:
    ports = {"--port": 0, "--otlp-port": 0, "--grpc-port": 0, "--runtime-port": 0}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports[option] = taken.getsockname()[1]
        arguments = [text for pair in ports.items() for text in (pair[0], str(pair[1]))]
        done = up(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr == (
        f"costwatch: port {ports[option]} is in use; stop what listens there, "
        f"or choose another with {option}\n"
    )


def test_a_second_one_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        done = up(tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"costwatch: another `costwatch up` runs on {tmp_path}; stop it, "
        "or name another folder with --data\n"
    )


def test_a_database_that_is_named_twice_is_refused_in_one_line(tmp_path: Path) -> None:
    ports = ("--port", "0", "--otlp-port", "0", "--runtime-port", "0")
    done = up(tmp_path, *ports, DATABASE_URL="postgresql://x/y", DATABASE_URL_FILE="/nowhere")
    assert done.returncode == 1
    assert done.stderr == (
        "costwatch: DATABASE_URL and DATABASE_URL_FILE are both set; set one of them\n"
    )


def test_grpc_listens_beside_http_unless_something_else_does_or_another_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert _options(["--otlp-port", str(port + 1)]).grpc_port is None
        assert _options(["--otlp-port", str(port + 1), "--grpc-port", "5"]).grpc_port == 5
    assert _options(["--otlp-port", str(port + 1)]).grpc_port == port
    assert _options(["--otlp-port", str(port + 1), "--port", str(port)]).grpc_port is None
