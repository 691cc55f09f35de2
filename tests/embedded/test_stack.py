"""Which programs run, and what they are told."""

from dataclasses import replace
from pathlib import Path

import pytest

from costwatch.embedded import stack
from costwatch.embedded.stack import Options, Secrets


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "COSTWATCH_SECRET_KEY", "COSTWATCH_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        tmp_path,
        port=8000,
        otlp_port=4318,
        grpc_port=4317,
        runtime_port=8100,
        runtime=True,
        demo=True,
    )


def names(options: Options) -> set[str]:
    return {program.name for program in stack.programs(options, Secrets())}


def test_everything_runs_unless_told_otherwise(options: Options) -> None:
    everything = {
        *("postgres", "web", "receiver", "receiver-grpc", "worker", "beat", "runtime", "demo")
    }
    assert names(options) == everything
    assert names(replace(options, grpc_port=None)) == everything - {"receiver-grpc"}


def test_a_postgres_of_ones_own_takes_the_place_of_the_embedded_one(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://costwatch@db.example.org/costwatch")
    assert "postgres" not in names(options)


def test_the_bare_product_has_no_demo_and_may_have_no_runtime(options: Options) -> None:
    assert names(replace(options, demo=False)) >= {"web", "runtime"}
    assert "demo" not in names(replace(options, demo=False))
    assert not names(replace(options, runtime=False, demo=False)) & {"runtime", "demo"}


def test_secrets_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    made = Secrets.load(tmp_path)
    assert Secrets.load(tmp_path) == made
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert Secrets() != made


def test_no_secret_stands_on_a_command_line(options: Options) -> None:
    """Everybody on the machine can read those."""
    kept = Secrets()
    secrets = {kept.secret_key, kept.password, kept.runtime_key, kept.demo_key}
    words = [word for program in stack.programs(options, kept) for word in program.command]
    assert not [word for word in words if any(secret in word for secret in secrets)]


def test_who_sends_stops_before_who_receives_and_postgres_last(options: Options) -> None:
    order = sorted(stack.programs(options, Secrets()), key=lambda program: -program.priority)
    stopped = [program.name for program in order]
    assert stopped.index("demo") < stopped.index("runtime") < stopped.index("receiver")
    assert stopped[-1] == "postgres"


def test_a_secret_key_of_ones_own_is_kept(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Secrets()
    made = stack.environment(options, kept, "postgresql://x/y")
    assert made["COSTWATCH_SECRET_KEY"] == kept.secret_key
    monkeypatch.setenv("COSTWATCH_SECRET_KEY", "my own")
    given = stack.environment(options, kept, "postgresql://x/y")
    assert given["COSTWATCH_SECRET_KEY"] == "my own"


def test_a_secret_that_is_mounted_as_a_file_is_read_and_handed_on_once(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("postgresql://costwatch@db.example.org/costwatch\n")
    (tmp_path / "key").write_text("my own\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("COSTWATCH_SECRET_KEY_FILE", str(tmp_path / "key"))
    assert "postgres" not in names(options)
    given = stack.environment(options, Secrets(), "postgresql://x/y")
    assert given["COSTWATCH_SECRET_KEY"] == "my own"
    assert not given.keys() & {"DATABASE_URL_FILE", "COSTWATCH_SECRET_KEY_FILE"}
