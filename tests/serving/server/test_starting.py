"""The port while the model is being loaded."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import openai
import pytest

from serving.server.app import build_app
from serving.server.http_server import HttpServer
from serving.server.starting import answering_not_yet
from tests.serving.server.asking import chat, post
from tests.serving.server.fakes import SERVED, FakeEngine, ListRecorder


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


def test_whoever_asks_before_the_model_is_there_hears_when_to_come_back(
    listener: socket.socket,
) -> None:
    port = listener.getsockname()[1]
    with answering_not_yet(listener):
        health = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        health.request("GET", "/health")
        answer = health.getresponse()
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert b'"status": "starting"' in answer.read()
        health.close()
        with (
            openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
            ) as client,
            pytest.raises(openai.InternalServerError, match="being loaded") as caught,
        ):
            chat(client)
        assert (caught.value.status_code, caught.value.code) == (503, "starting")
        status, _ = post(f"http://127.0.0.1:{port}", b"a" * 1_000_000)
        assert status == 503


def test_who_says_nothing_or_leaves_does_not_hold_up_the_next(listener: socket.socket) -> None:
    address = listener.getsockname()
    with answering_not_yet(listener):
        silent = socket.create_connection(address)
        socket.create_connection(address).close()
        status, _ = post(f"http://127.0.0.1:{address[1]}", b"{}")
        assert status == 503
        silent.close()


@pytest.mark.parametrize("said", [b"POST", b"POST / HTTP/1.1\r\n\r\n"], ids=["head", "body"])
def test_who_goes_on_letter_by_letter_is_left(listener: socket.socket, said: bytes) -> None:
    with answering_not_yet(listener), socket.create_connection(listener.getsockname()) as client:
        client.sendall(said)
        with pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
            _go_on(client, seconds=4)


def _go_on(client: socket.socket, seconds: int) -> None:
    for _ in range(10 * seconds):
        time.sleep(0.1)
        client.sendall(b"a")


def test_the_server_takes_the_port_over_with_those_who_wait_at_it(
    listener: socket.socket, engine: FakeEngine
) -> None:
    port = listener.getsockname()[1]
    with answering_not_yet(listener):
        pass
    early = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    early.request("GET", "/v1/models")
    server = HttpServer(build_app(SERVED, engine, ListRecorder()), 5, lambda: None)
    serving = threading.Thread(target=server.run, args=([listener],))
    serving.start()
    assert early.getresponse().status == 200
    early.close()
    server.drain()
    serving.join()
