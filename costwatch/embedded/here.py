"""Commands that are typed beside a running `costwatch up` talk to its database."""

import os
from pathlib import Path

from costwatch import env
from costwatch.embedded import postgres
from costwatch.embedded.stack import Secrets


def use_stack_of(data: Path) -> None:
    """Point this process at the stack in a data folder, unless the environment names a database already."""
    cluster = data / "postgres"
    if env.text("DATABASE_URL") or not (cluster / "cluster.json").exists():
        return
    os.environ["DATABASE_URL"] = postgres.prepare(cluster).url
    if not env.text("COSTWATCH_SECRET_KEY"):
        os.environ["COSTWATCH_SECRET_KEY"] = Secrets.load(data).secret_key
