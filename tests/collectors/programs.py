"""Programs under `costwatch-collect run`, as a user starts them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
COLLECT = (sys.executable, "-m", "collectors.run", "run")


def environment(outbox: Path, **variables: str) -> dict[str, str]:
    """A user's environment, without what this test run has of OpenTelemetry and costwatch."""
    ours = ("OTEL_", "COSTWATCH_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    paths = os.environ.get("TEST_PYTHONPATH", "")
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), paths])),
        "COSTWATCH_OUTBOX": str(outbox),
        "COSTWATCH_KEY": "cw_test",
        **variables,
    }


def collect(
    *program: str, environ: dict[str, str], options: Sequence[str] = ("--team", "search")
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [*COLLECT, *options, *program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def script(name: str) -> tuple[str, str]:
    """The command that runs one of the scripts."""
    return sys.executable, str(SCRIPTS / name)
