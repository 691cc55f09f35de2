"""What a sender does as the receiver goes, refuses, asks for patience and comes back."""

import gzip
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collectors.outbox import Outbox
from collectors.sender import Sender
from tests.collectors.bodies import request, span
from tests.collectors.upstream import Received, receiving

BODY = gzip.compress(request(span({"gen_ai.operation.name": "chat"})).SerializeToString())
PATIENCE_SECONDS = 30


def sender(folder: Path, url: str) -> Sender:
    urls = {kind: f"{url}/v1/{kind}" for kind in ("traces", "metrics")}
    return Sender(Outbox(folder), urls, {"authorization": "Bearer cw_1"})


def until(is_so: Callable[[], bool]) -> None:
    by = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < by, "it never was so"
        time.sleep(0.01)


def test_what_is_kept_is_sent_with_the_key_and_then_gone(tmp_path: Path) -> None:
    with receiving() as (url, received):
        sends = sender(tmp_path, url)
        assert sends.keep("traces", BODY, 1)
        assert sends.keep("metrics", gzip.compress(b""), 1)
        assert sends.flush(PATIENCE_SECONDS)
    assert [path for path, _, _ in received.bodies] == ["/v1/traces", "/v1/metrics"]
    assert {headers["authorization"] for _, headers, _ in received.bodies} == {"Bearer cw_1"}
    ExportTraceServiceRequest.FromString(received.bodies[0][2])
    assert sends.counts.sent == 2


def test_a_receiver_that_comes_back_gets_everything_in_order(tmp_path: Path) -> None:
    with receiving() as (url, received):
        port = int(url.rpartition(":")[2])
    sends = sender(tmp_path, url)
    for number in range(3):
        sends.keep("traces", BODY, number + 1)
    assert not sends.flush(PATIENCE_SECONDS)  # says so as soon as it knows
    assert [each.items for each in sends.outbox.waiting()] == [1, 2, 3]
    with receiving(received, port):
        until(lambda: not sends.outbox.waiting())
    assert len(received.bodies) == 3


def test_a_refused_body_is_counted_said_and_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    received = Received(answer=lambda _, number: (400 if number == 1 else 200, {}))
    with receiving(received) as (url, _), caplog.at_level(logging.WARNING):
        sends = sender(tmp_path, url)
        sends.keep("traces", BODY, 5)
        sends.keep("traces", BODY, 2)
        assert sends.flush(PATIENCE_SECONDS)
    assert (sends.counts.refused, sends.counts.sent, received.attempts) == (5, 2, 2)
    assert "5 traces refused for good: HTTP 400" in caplog.text


@pytest.mark.parametrize("status", [429, 503, 500, 401])
def test_a_receiver_that_cannot_now_is_asked_later(tmp_path: Path, status: int) -> None:
    received = Received(answer=lambda _, number: (status if number == 1 else 200, {}))
    with receiving(received) as (url, _):
        sends = sender(tmp_path, url)
        sends.keep("traces", BODY, 1)
        until(lambda: not sends.outbox.waiting())
    assert (sends.counts.sent, sends.counts.refused) == (1, 0)


def test_retry_after_is_obeyed_by_every_process_that_shares_the_folder(tmp_path: Path) -> None:
    received = Received(answer=lambda *_: (503, {"retry-after": "120"}))
    with receiving(received) as (url, _):
        sends = sender(tmp_path, url)
        other = sender(tmp_path, url)
        sends.keep("traces", BODY, 1)
        until(lambda: received.attempts == 1)
        until(lambda: other.outbox.pause_seconds() > 100)
        other.keep("traces", BODY, 1)
        assert not other.flush(PATIENCE_SECONDS)
        assert received.attempts == 1


def test_a_body_on_which_the_receiver_breaks_does_not_hold_up_the_others_for_ever(
    tmp_path: Path,
) -> None:
    received = Received(
        answer=lambda _, number: (500 if number <= 8 else 200, {"retry-after": "0"})
    )
    with receiving(received) as (url, _):
        sends = sender(tmp_path, url)
        sends.keep("traces", BODY, 3)
        sends.keep("traces", BODY, 1)
        until(lambda: bool(sends.flush(1)))
    assert (sends.counts.refused, sends.counts.sent) == (3, 1)


def test_processes_that_share_a_folder_send_each_body_once(tmp_path: Path) -> None:
    with receiving() as (url, received):
        senders = [sender(tmp_path, url) for _ in range(4)]
        for number in range(40):
            senders[number % 4].keep("traces", BODY, 1)
        for each in senders:
            until(lambda each=each: bool(each.flush(1)))
    assert len(received.bodies) == 40
    assert sum(each.counts.sent for each in senders) == 40


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_sends_too_and_takes_no_lock_along(tmp_path: Path) -> None:
    with receiving() as (url, received):
        sends = sender(tmp_path, url)
        pid = os.fork()
        if not pid:
            sends.keep("traces", BODY, 1)
            os._exit(0 if sends.flush(PATIENCE_SECONDS) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        sends.keep("traces", BODY, 1)
        assert sends.flush(PATIENCE_SECONDS)
    assert len(received.bodies) == 2


def test_leaving_does_not_wait_for_a_receiver_that_never_answers(tmp_path: Path) -> None:
    has_left = threading.Event()

    def answer(_: str, __: int) -> tuple[int, dict[str, str]]:
        assert has_left.wait(PATIENCE_SECONDS)
        return 200, {}

    with receiving(Received(answer=answer)) as (url, received):
        sends = sender(tmp_path, url)
        sends.keep("traces", BODY, 1)
        sends.leave()
        sends.leave()  # the metrics' exporter's turn, then the interpreter's exit: one patience for all
        assert received.bodies == []
        has_left.set()
        until(lambda: not sends.outbox.waiting())


def test_the_environments_proxy_is_used_and_another_key_of_a_netrc_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with receiving() as (proxy, received):
        monkeypatch.setenv("http_proxy", proxy)
        sends = sender(tmp_path / "outbox", "http://costwatch.example:4318")
        sends.keep("traces", BODY, 1)
        assert sends.flush(PATIENCE_SECONDS)
    [(path, headers, _)] = received.bodies
    assert path == "http://costwatch.example:4318/v1/traces"
    assert headers["authorization"] == "Bearer cw_1"
