"""The supervisor: what goes down comes back, and nothing outlives it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from costwatch.embedded.stack import Program
from costwatch.embedded.supervise import Supervisor
from tests.embedded.waiting import eventually

# Says its process id, then waits; when it is told to stop, says so and ends.
_WAITS = """
import os, signal, sys, time
def end(*_):
    print(sys.argv[1], "ends", file=open(sys.argv[2], "a"), flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print(os.getpid(), flush=True)
while True:
    time.sleep(60)
"""


def waits(name: str, ends: Path, priority: int = 500) -> Program:
    script = ends.with_name("waits.py")
    script.write_text(_WAITS)
    return Program(name, (sys.executable, str(script), name, str(ends)), priority=priority)


def says(name: str, code: str, environment: dict[str, str] | None = None) -> Program:
    return Program(name, (sys.executable, "-c", code), environment or {})


def pid_of(supervisor: Supervisor, name: str) -> int:
    return eventually(f"{name} says its pid", lambda: int(supervisor.last_lines(name, 1) or "0"))


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_program_that_was_killed_comes_back(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    with Supervisor(tmp_path, [waits("web", ends)], os.environ) as supervisor:
        supervisor.start("web")
        first = pid_of(supervisor, "web")
        eventually("it runs", lambda: supervisor.states()["web"] == "RUNNING")
        psutil.Process(first).kill()
        eventually("it came back", lambda: pid_of(supervisor, "web") != first)
        eventually("it stays", lambda: supervisor.states()["web"] == "RUNNING")


def test_everything_stops_in_order_at_the_end(tmp_path: Path) -> None:
    """Who sends goes before who receives, and who receives before the database."""
    ends = tmp_path / "ends"
    programs = [waits("database", ends, 1), waits("receiver", ends, 400), waits("demo", ends, 900)]
    with Supervisor(tmp_path, programs, os.environ) as supervisor:
        for program in programs:
            supervisor.start(program.name)
        pids = [pid_of(supervisor, program.name) for program in programs]
    assert all(is_gone(pid) for pid in pids)
    assert ends.read_text().splitlines() == ["demo ends", "receiver ends", "database ends"]


def test_nothing_starts_unasked(tmp_path: Path) -> None:
    with Supervisor(tmp_path, [waits("web", tmp_path / "ends")], os.environ) as supervisor:
        assert supervisor.states() == {"web": "STOPPED"}


def test_a_program_gets_its_own_environment_over_the_common_one(tmp_path: Path) -> None:
    code = "import os; print(os.environ['COMMON'], os.environ['OWN'], os.environ['BOTH'])"
    program = says("web", code, {"OWN": "Bearer%20key, 100%", "BOTH": "own"})
    common = {**os.environ, "COMMON": "50% of it", "BOTH": "common"}
    with Supervisor(tmp_path, [program], common) as supervisor:
        supervisor.start("web")
        said = eventually("it said something", lambda: supervisor.last_lines("web", 1))
    assert said == "50% of it Bearer%20key, 100% own"


def test_the_last_words_of_a_program_that_cannot_start_are_kept(tmp_path: Path) -> None:
    with Supervisor(tmp_path, [says("web", "raise SystemExit('no port')")], os.environ) as up:
        up.start("web")
        eventually("it is tried again", lambda: up.states()["web"] == "BACKOFF")
        assert up.last_lines("web") == "no port"


def test_its_configuration_is_its_owners_only(tmp_path: Path) -> None:
    """It holds the keys that the programs send with."""
    with Supervisor(tmp_path, [waits("web", tmp_path / "ends")], os.environ):
        assert (tmp_path / "run" / "supervisord.conf").stat().st_mode & 0o777 == 0o600


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with Supervisor(tmp_path, [waits("web", tmp_path / "ends")], os.environ) as supervisor:
        supervisor.start("web")
        pid = pid_of(supervisor, "web")
        psutil.Process(supervisor.pid).kill()
    assert is_gone(pid)


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from costwatch.embedded.supervise import Supervisor\n"
        "from tests.embedded.test_supervise import pid_of, waits\n"
        "data = Path(sys.argv[1])\n"
        "with Supervisor(data, [waits('web', data / 'ends')], os.environ) as supervisor:\n"
        "    supervisor.start('web')\n"
        "    print(supervisor.pid, pid_of(supervisor, 'web'), flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    eventually("all ended", lambda: all(is_gone(pid) for pid in pids))
