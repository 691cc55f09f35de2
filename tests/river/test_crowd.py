"""Many tasks at once, as when many organizations' budgets are looked at: new calls are shown all the same."""

import http.client

import pytest

from tests.river.stack import Stack, eventually
from tests.river.test_crashes import body

pytestmark = pytest.mark.slow

_MANY = (
    "from costwatch.budgets.tasks import evaluate_budgets\n"
    "for _ in range(200): evaluate_budgets.delay(0)"
)


def test_a_call_is_shown_soon_behind_hundreds_of_tasks(stack: Stack) -> None:
    stack.command("create_organization", "Crowd")
    stack.command("create_member", "--organization", "Crowd", "--email", "crowd@example.org")
    key = stack.command("create_key", "--organization", "Crowd")
    token = stack.command("create_token", "--organization", "Crowd", "--email", "crowd@example.org")
    stack.command("shell", "-c", _MANY)
    door = http.client.HTTPConnection("127.0.0.1", stack.otlp, timeout=30)
    door.request(
        "POST",
        "/v1/traces",
        body(1),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/x-protobuf"},
    )
    assert door.getresponse().status == 200
    door.close()

    def is_shown() -> bool:
        return [row["calls"] for row in stack.get("/costs", token)["results"]] != []

    eventually("the call is shown", is_shown, 30)
