import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from tests.river.stack import Mailbox, Stack, free_port


@pytest.fixture(scope="session")
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    handler = Mailbox()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield handler, controller.port
    controller.stop()


@pytest.fixture(scope="session")
def stack(mailbox: tuple[Mailbox, int]) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="costwatch-river-"))
    folder.chmod(0o755)  # Postgres does not run as root, and must get there
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "CELERY_BROKER_URL", "COSTWATCH_SECRET_KEY"}
    }
    environment |= {"EMAIL_URL": f"smtp://127.0.0.1:{mailbox[1]}", "PYTHONUNBUFFERED": "1"}
    environment["COSTWATCH_DATA"] = str(folder / "data")
    stack = Stack(folder / "data", environment)
    stack.up()
    yield stack
    stack.down()
    shutil.rmtree(folder)
