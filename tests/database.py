"""Before Django reads its settings: a Postgres for the tests, embedded unless DATABASE_URL names one.

Loaded by `-p tests.database`; a conftest.py would come too late.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

_running = ExitStack()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    os.environ.setdefault("COSTWATCH_SECRET_KEY", "for tests only")
    os.environ.setdefault("CELERY_BROKER_URL", "memory://")
    if "DATABASE_URL" not in os.environ:
        from costwatch.embedded.postgres import running

        data_dir = Path(tempfile.mkdtemp(prefix="costwatch-tests-"))
        data_dir.chmod(0o755)  # Postgres does not run as root, and must get there
        _running.callback(shutil.rmtree, data_dir, ignore_errors=True)
        os.environ["DATABASE_URL"] = _running.enter_context(running(data_dir, durable=False))


def pytest_unconfigure() -> None:
    _running.close()
