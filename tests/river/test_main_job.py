"""What a user does, on the real stack with the real model, from the first request to the alert mail."""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser import chromium
from tests.river.stack import Mailbox, Stack, eventually

pytestmark = [pytest.mark.slow, pytest.mark.browser]

# The runtime of the stack sends in its name.
ORGANIZATION = "My organization"
PASSWORD = "a long enough password"
TRAFFIC = Path(__file__).parent / "two_teams.py"


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
    for team in ("Search", "Support"):
        stack.command("create_team", team, "--organization", ORGANIZATION)
    stack.environment["COSTWATCH_PASSWORD"] = PASSWORD
    stack.command(
        "create_member",
        "--organization",
        ORGANIZATION,
        "--email",
        "fin@example.org",
        "--role",
        "owner",
    )
    stack.command(
        "set_price", "--organization", ORGANIZATION, "--device", "cpu", "--per-hour", "3.60"
    )
    key = stack.command("create_key", "--organization", ORGANIZATION)
    token = stack.command(
        "create_token", "--organization", ORGANIZATION, "--email", "fin@example.org"
    )

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
        # What the runtime's prefix cache held is a meter of its own.
        read = seen["input_tokens"] + seen["cache_read_input_tokens"]
        assert (read, seen["output_tokens"]) == (call["prompt_tokens"], call["completion_tokens"])

    # The client's spans say what was asked, our runtime's what it took: not before both came is it whole.
    def priced() -> list[dict[str, Any]]:
        rows = stack.get(f"/costs?{window}&group_by=team", token)["results"]
        paid = [row for row in rows if float(row["cost"]) > 0]
        return paid if sum(row["calls"] for row in paid) == len(told) else []

    # The list of calls reads the ledger, costs the rollups, which follow within a second.
    rows = eventually("all calls have costs", priced, 60)
    assert len(rows) == 2
    assert sum(row["output_tokens"] for row in rows) == sum(c["completion_tokens"] for c in told)

    _see_the_teams_and_set_a_budget(stack)
    mails = mailbox[0].mails
    received = eventually(
        "the alert mail", lambda: [m for m in mails if m["To"] == "fin@example.org"], 90
    )
    assert "Search" in received[0]["Subject"]
    time.sleep(3)
    sent = [(mail["To"], mail["Subject"]) for mail in mails]
    assert len(sent) == len(set(sent)), "one mail per person and threshold"

    assert "0 differences" in stack.audit()


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
    started = stack.processes()
    assert len(started) >= 6
    stack.down()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, [process.cmdline() for process in alive]
    stack.up()
    token = stack.command(
        "create_token", "--organization", ORGANIZATION, "--email", "fin@example.org"
    )
    today = datetime.now(UTC).date()
    window = f"start={today - timedelta(days=1)}&end={today + timedelta(days=1)}"
    assert len(stack.get(f"/calls?{window}", token)["results"]) >= 8
