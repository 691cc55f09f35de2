"""The demo organization, and the applications that send in its name."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from costwatch.accounts.models import IngestKey, Organization, Team
from costwatch.budgets.models import Budget
from costwatch.embedded.demo import make_demo
from costwatch.embedded.demo_traffic import APPLICATIONS, agent, classification
from costwatch.pricing.models import Price


@dataclass
class Runtime:
    """A runtime on loopback that answers every chat with one word, once it may."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    is_asked: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        runtime: Runtime = self.server.runtime  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/chat/completions":
            self._answer({})  # telemetry
            return
        runtime.asked.append(json.loads(body))
        runtime.is_asked.set()
        runtime.may_answer.wait()
        message = {"role": "assistant", "content": "billing"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny"}
        self._answer({**answer, "choices": [choice]})

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever asked has gone
            super().handle()


@contextmanager
def serving() -> Iterator[Runtime]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    runtime = Runtime(f"http://127.0.0.1:{server.server_address[1]}")
    server.runtime = runtime  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield runtime
    finally:
        runtime.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.django_db
def test_the_demo_has_four_teams_in_two_departments(organization: Organization) -> None:
    make_demo(organization, "cwk_demo")
    made = Team.objects.filter(organization=organization, parent__isnull=False).order_by("slug")
    assert [(team.parent.name, team.slug, team.cost_centre) for team in made if team.parent] == [
        ("Product", "customer-chat", "CC-110"),
        ("Operations", "legal-summaries", "CC-210"),
        ("Product", "research-agent", "CC-120"),
        ("Operations", "ticket-triage", "CC-220"),
    ]


@pytest.mark.django_db
def test_each_application_sends_for_a_team_that_the_demo_has(organization: Organization) -> None:
    make_demo(organization, "cwk_demo")
    payers = Team.objects.filter(organization=organization, parent__isnull=False)
    assert {team for team, _, _ in APPLICATIONS} == set(payers.values_list("slug", flat=True))


@pytest.mark.django_db
def test_a_second_start_makes_nothing_twice_and_keeps_what_was_changed(
    organization: Organization,
) -> None:
    def rows() -> list[int]:
        models = (Team, IngestKey, Budget, Price)
        return [model.objects.count() for model in models]

    make_demo(organization, "cwk_demo")
    first = rows()
    Team.objects.filter(slug="ticket-triage").update(cost_centre="CC-999")
    Budget.objects.update(amount=7)
    Price.objects.update(unit_price=9)
    make_demo(organization, "cwk_demo")
    assert rows() == first
    assert Team.objects.get(slug="ticket-triage").cost_centre == "CC-999"
    assert Budget.objects.get().amount == 7
    assert [price.unit_price for price in Price.objects.all()] == [9]


def test_the_agent_repeats_a_long_prefix_and_the_tickets_come_again() -> None:
    chance = random.Random(1)
    with serving() as runtime, openai.OpenAI(base_url=f"{runtime.url}/v1", api_key="x") as client:
        runtime.may_answer.set()
        for _ in range(2):
            list(agent(client, "tiny", chance))
        agents = [asked["messages"][0]["content"] for asked in runtime.asked]
        runtime.asked.clear()
        for _ in range(5):
            list(classification(client, "tiny", chance))
        tickets = [json.dumps(asked, sort_keys=True) for asked in runtime.asked]
    assert len(agents) == 6
    assert len(set(agents)) == 1
    assert len(agents[0].split()) > 80
    assert len(tickets) == 20
    assert len(set(tickets)) <= 12
    assert all(json.loads(ticket)["temperature"] == 0 for ticket in tickets)


def test_the_applications_end_at_once_in_the_middle_of_a_call() -> None:
    with serving() as runtime:
        process = subprocess.Popen(
            [sys.executable, "-m", "costwatch.embedded.demo_traffic", f"{runtime.url}/v1"],
            env={**os.environ, "COSTWATCH_ENDPOINT": runtime.url, "COSTWATCH_KEY": "cwk_x"},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert runtime.is_asked.wait(60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
        assert not runtime.may_answer.is_set()
