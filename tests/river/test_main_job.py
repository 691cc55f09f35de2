"""What a user does, on the real stack with the real model, from the first request to the alert mail."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from tests.browser import chromium

pytestmark = [pytest.mark.slow, pytest.mark.browser]

PASSWORD = "a long enough password"
TRAFFIC = Path(__file__).parent / "two_teams.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(what: str, check: Callable[[], Any], seconds: float) -> Any:
    """What the check returns once that is true; fails with what was waited for."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := check():
            return found
        time.sleep(0.3)
    pytest.fail(f"{what}: not within {seconds} s")


class Mailbox(Message):
    """A real SMTP server's mail, as it arrived."""

    def __init__(self) -> None:
        super().__init__(EmailMessage)
        self.mails: list[EmailMessage] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)


@pytest.fixture(scope="module")
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    handler = Mailbox()
    controller = Controller(handler, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield handler, controller.port
    controller.stop()


@dataclass
class Stack:
    """`costwatch up` on free ports, with its own data."""

    data: Path
    environment: dict[str, str]
    web: int = field(default_factory=free_port)
    otlp: int = field(default_factory=free_port)
    runtime: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    said: str = ""

    def up(self) -> None:
        log = (self.data.parent / "up.log").open("w")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "costwatch", "up", "--no-demo"),
                *("--port", str(self.web), "--otlp-port", str(self.otlp)),
                *("--runtime-port", str(self.runtime), "--data", str(self.data)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )
        eventually("the stack is up", self._is_up, 180)

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail((self.data.parent / "up.log").read_text())
        return self._answers(f"http://127.0.0.1:{self.web}/login/") and self._answers(
            f"http://127.0.0.1:{self.runtime}/health"
        )

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def down(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)

    def database_url(self) -> str:
        from costwatch.embedded.postgres import prepare

        return prepare(self.data / "postgres").url

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "costwatch", *arguments],
            capture_output=True,
            text=True,
            env={
                **self.environment,
                "DATABASE_URL": self.database_url(),
                "COSTWATCH_SECRET_KEY": "x",
            },
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def get(self, path: str, token: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web}/api/v1{path}",
            headers={"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, mailbox: tuple[Mailbox, int]
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "CELERY_BROKER_URL", "COSTWATCH_SECRET_KEY"}
    }
    environment |= {
        "EMAIL_URL": f"smtp://127.0.0.1:{mailbox[1]}",
        "COSTWATCH_MODEL_CACHE": os.environ.get("COSTWATCH_MODEL_CACHE", str(folder / "models")),
        "PYTHONUNBUFFERED": "1",
    }
    stack = Stack(folder / "data", environment)
    stack.up()
    yield stack
    stack.down()


def send_two_teams(stack: Stack, key: str) -> list[dict[str, Any]]:
    """Requests of two teams by the official client through collectors; what the client was told of each."""
    done = subprocess.run(
        [sys.executable, str(TRAFFIC)],
        capture_output=True,
        text=True,
        env={
            **stack.environment,
            "RUNTIME": f"http://127.0.0.1:{stack.runtime}/v1",
            "COSTWATCH_ENDPOINT": f"http://127.0.0.1:{stack.otlp}",
            "COSTWATCH_KEY": key,
        },
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_from_the_first_request_to_the_alert(stack: Stack, mailbox: tuple[Mailbox, int]) -> None:
    stack.command("create_organization", "Acme")
    for team in ("Search", "Support"):
        stack.command("create_team", team, "--organization", "Acme")
    stack.environment["COSTWATCH_PASSWORD"] = PASSWORD
    stack.command(
        "create_member", "--organization", "Acme", "--email", "fin@example.org", "--role", "owner"
    )
    stack.command("set_price", "--organization", "Acme", "--device", "cpu", "--per-hour", "3.60")
    key = stack.command("create_key", "--organization", "Acme")
    token = stack.command("create_token", "--organization", "Acme", "--email", "fin@example.org")

    told = send_two_teams(stack, key)
    assert len(told) == 8

    today = datetime.now(UTC).date()
    window = f"start={today - timedelta(days=1)}&end={today + timedelta(days=1)}"

    def calls_shown() -> list[dict[str, Any]]:
        return [
            call
            for call in stack.get(f"/calls?{window}", token)["results"]
            if call["team"] and call["usage_provenance"] == "reported"
        ]

    shown = eventually(
        "every call is shown", lambda: len(c := calls_shown()) == len(told) and c, 60
    )
    by_id = {call["response_id"]: call for call in shown}
    for call in told:
        seen = by_id[call["id"]]
        assert seen["team"] == call["team"]
        assert (seen["input_tokens"], seen["output_tokens"]) == (
            call["prompt_tokens"],
            call["completion_tokens"],
        )

    # The client's spans say what was asked, our runtime's what it took: not before both came is it whole.
    def priced() -> list[dict[str, Any]]:
        rows = stack.get(f"/costs?{window}&group_by=team", token)["results"]
        return [row for row in rows if float(row["cost"]) > 0]

    rows = eventually("both teams have costs", lambda: len(r := priced()) == 2 and r, 60)
    assert sum(row["calls"] for row in rows) == len(told)
    assert sum(row["output_tokens"] for row in rows) == sum(c["completion_tokens"] for c in told)

    _see_the_teams_and_set_a_budget(stack)
    mail = eventually("the alert mail", lambda: mailbox[0].mails and mailbox[0].mails[0], 90)
    assert mail["To"] == "fin@example.org"
    assert "Search" in mail["Subject"]
    time.sleep(3)
    subjects = [m["Subject"] for m in mailbox[0].mails]
    assert len(subjects) == len(set(subjects)), "one mail per threshold"

    assert "0 differences" in _audit(stack)


def _audit(stack: Stack) -> str:
    environment = {
        **stack.environment,
        "DATABASE_URL": stack.database_url(),
        "COSTWATCH_SECRET_KEY": "x",
    }
    done = subprocess.run(
        [sys.executable, "-m", "costwatch", "audit"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stderr


def _see_the_teams_and_set_a_budget(stack: Stack) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{stack.web}/")
        page.get_by_label(re.compile("mail", re.I)).fill("fin@example.org")
        page.get_by_label(re.compile("password", re.I)).fill(PASSWORD)
        page.get_by_role("button", name=re.compile("(log|sign) in", re.I)).click()
        for team in ("Search", "Support"):
            page.get_by_role("link", name=team).first.wait_for(timeout=20_000)
        page.goto(f"http://127.0.0.1:{stack.web}/budgets/new/")
        page.get_by_label("Name").fill("Search this month")
        page.get_by_label("Team").select_option(label="Search")
        page.get_by_label(re.compile("^Amount")).fill("0.000001")
        page.get_by_role("button", name=re.compile("create|save", re.I)).click()
        page.get_by_text("Search this month").first.wait_for(timeout=20_000)


def test_ctrl_c_stops_every_process_and_a_second_start_keeps_the_data(stack: Stack) -> None:
    import psutil

    assert stack.process is not None
    started = psutil.Process(stack.process.pid).children(recursive=True)
    assert len(started) >= 6
    stack.down()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    stack.up()
    token = stack.command("create_token", "--organization", "Acme", "--email", "fin@example.org")
    today = datetime.now(UTC).date()
    window = f"start={today - timedelta(days=1)}&end={today + timedelta(days=1)}"
    assert len(stack.get(f"/calls?{window}", token)["results"]) >= 8
