"""Invariant 2: what was acknowledged is in the rollups after any crash of any process, exactly once."""

import http.client
import threading
import time

import pytest

from tests.attribution.test_receive import request
from tests.river.stack import Stack, eventually

pytestmark = pytest.mark.slow

ORGANIZATION = "Crash test"
SPANS = 40


def body(number: int) -> bytes:
    message = request(number * SPANS + 1)
    for more in range(1, SPANS):
        message.MergeFrom(request(number * SPANS + 1 + more))
    return message.SerializeToString()


class Sender(threading.Thread):
    """Sends one body after the other, each until it is acknowledged, as OpenTelemetry's exporters do."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.headers = {
            "Content-Type": "application/x-protobuf",
            "Authorization": f"Bearer {key}",
        }
        self.acknowledged = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            sent = body(self.acknowledged)
            while not self._acknowledged(sent):
                time.sleep(0.2)
            self.acknowledged += 1

    def _acknowledged(self, sent: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/v1/traces", sent, self.headers)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def counted(stack: Stack) -> int:
    with stack.connect() as connection:
        row = connection.execute(
            "SELECT coalesce(sum(calls), 0) FROM attribution_usagehour u"
            " JOIN accounts_organization o ON o.id = u.organization_id WHERE o.name = %s",
            [ORGANIZATION],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_kill_of_any_process_in_mid_load_loses_and_doubles_nothing(stack: Stack) -> None:
    stack.command("create_organization", ORGANIZATION)
    sender = Sender(stack.otlp, stack.command("create_key", "--organization", ORGANIZATION))
    sender.start()
    for words in (
        ("celery", "worker"),
        ("gunicorn", "receive:application"),
        ("gunicorn", "wsgi:application"),
        ("pgdata", "-D"),
        ("celery", "beat"),
    ):
        before = sender.acknowledged
        eventually("bodies are acknowledged", lambda b=before: sender.acknowledged >= b + 3, 60)
        stack.kill(*words)
        before = sender.acknowledged
        eventually(
            f"bodies are acknowledged after the end of {words}",
            lambda b=before: sender.acknowledged >= b + 3,
            60,
        )
    sender.stopped.set()
    sender.join(timeout=30)
    assert not sender.is_alive()
    calls = sender.acknowledged * SPANS
    assert calls > 0
    eventually(f"all {calls} calls are in the rollups", lambda: counted(stack) >= calls, 60)
    assert counted(stack) == calls
    assert "0 differences" in stack.audit()
