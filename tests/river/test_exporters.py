"""OpenTelemetry's own exporters, in every protocol, through the end of every process that takes their calls in."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.attribution.senders import Sender, exporters
from tests.river.stack import Stack, eventually

pytestmark = pytest.mark.slow

ORGANIZATION = "Exporters"


def counted(stack: Stack) -> Counter[str]:
    """Calls in the rollups, by the name of who sent them."""
    with stack.connect() as connection:
        rows = connection.execute(
            "SELECT s.service_name, sum(u.calls) FROM attribution_usagehour u"
            " JOIN attribution_source s ON s.id = u.source_id"
            " JOIN accounts_organization o ON o.id = u.organization_id"
            " WHERE o.name = %s GROUP BY 1",
            [ORGANIZATION],
        ).fetchall()
    return Counter({name: int(calls) for name, calls in rows})


def test_every_exporter_delivers_each_call_once_through_kills_of_every_process(
    stack: Stack,
) -> None:
    stack.command("create_organization", ORGANIZATION)
    secret = stack.command("create_key", "--organization", ORGANIZATION)
    stopped = threading.Event()
    senders = {
        name: Sender(name, exporter, stopped)
        for name, exporter in exporters(stack.otlp, stack.grpc, secret).items()
    }
    for sender in senders.values():
        sender.start()
    for words in (
        ("gunicorn", "receive:application"),
        ("receive_grpc",),
        ("pgdata", "-D"),
        ("celery", "worker"),
    ):
        before = counted(stack)
        eventually("all are counted", lambda b=before: _all_above(counted(stack), b, senders), 90)
        stack.kill(*words)
        time.sleep(3)  # as long as a restart takes, so that the next one is killed at work
    stopped.set()
    with ThreadPoolExecutor(len(senders)) as pool:
        list(pool.map(Sender.finish, senders.values()))
    sent = Counter({name: sender.sent for name, sender in senders.items()})
    eventually("all are in the rollups", lambda: counted(stack).total() >= sent.total(), 90)
    assert counted(stack) == sent
    assert "0 differences" in stack.audit()


def _all_above(now: Counter[str], before: Counter[str], names: dict[str, Sender]) -> bool:
    return all(now[name] > before[name] for name in names)
