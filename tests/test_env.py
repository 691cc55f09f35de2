"""Settings from the environment: what is read is documented, and every part of a URL arrives."""

import ast
import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from django.core.exceptions import ImproperlyConfigured
from pgmq.base import PGMQConfig
from psycopg.conninfo import conninfo_to_dict

from costwatch import env

HERE = Path(__file__).parent.parent
# Said where they matter: by the command that asks for one, and by the supervisor to its own child.
NOT_SETTINGS = {"COSTWATCH_PASSWORD", "COSTWATCH_EMBEDDED_SECRETS"}


@pytest.mark.parametrize(
    "password", ["", "plain", "p@ss/w:rd#%?", "it's", "two words", "back\\slash", "[é]&=+"]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "db.example.org"])
def test_the_queues_are_reached_with_the_databases_own_password(
    monkeypatch: pytest.MonkeyPatch, password: str, host: str
) -> None:
    monkeypatch.setenv(
        "DATABASE_URL", f"postgresql://cw:{quote(password, safe='')}@{host}:5433/costs"
    )
    url = env.broker_in(env.postgres("DATABASE_URL", ""))
    dsn = PGMQConfig(conn_string=url.replace("pgmq:", "postgresql:")).dsn
    found = conninfo_to_dict(dsn)
    assert (found["host"], found["port"], found["user"]) == (host.strip("[]"), "5433", "cw")
    assert found["password"] == password or not password


def test_the_queues_use_tls_as_the_database_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ["DATABASE_URL"] = "postgresql://cw@db/costwatch?sslmode=verify-full"
    url = env.broker_in(env.postgres("DATABASE_URL", ""))
    assert os.environ["PGSSLMODE"] == "verify-full"
    assert url.startswith("pgmq://cw:@db:5432/")


@pytest.mark.parametrize("value", ["-1", "367", "9" * 30, "ten"])
def test_a_number_out_of_its_bounds_stops_the_start_and_says_so(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    name = "COSTWATCH_EXCHANGE_RATE_MAX_AGE_DAYS"
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=f"{name}='{value}': expected a whole number"):
        env.whole_number(name, 10, most=366)
    monkeypatch.setenv(name, "0")
    assert env.whole_number(name, 10, most=366) == 0


def _names_read() -> set[str]:
    """First arguments of env.text and its like, in the service."""
    names: set[str] = set()
    for file in (HERE / "costwatch").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "env"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                names.add(str(node.args[0].value))
    return names


def test_every_variable_that_is_read_stands_in_the_readme_and_no_other() -> None:
    table = re.findall(r"^\| (`[A-Z_`, ]+`) \|", (HERE / "README.md").read_text(), re.MULTILINE)
    documented = {name for row in table for name in re.findall(r"`([A-Z_]+)`", row)}
    pips = {"PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"}
    assert documented - pips == _names_read() - NOT_SETTINGS


def test_no_variable_of_ours_is_read_past_its_file() -> None:
    """NAME_FILE stands for NAME: so nothing of ours is read from the environment directly."""
    direct = re.compile(
        r"environ(?:\.get\(|\[)\"((?:COSTWATCH|CELERY|EMAIL|DATABASE)_\w+)\"(?!\] =)"
    )
    found = {
        name
        for file in (HERE / "costwatch").rglob("*.py")
        for name in direct.findall(file.read_text())
    }
    assert found <= NOT_SETTINGS
