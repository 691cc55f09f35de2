"""What the port answers while the model is being loaded: 503, and when to come back.

Who probes a machine learns that it is alive; who asks it for an answer, that it will have one.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

from serving.server.errors import Overloaded

_RETRY_AFTER_SECONDS = 5
_PATIENCE_SECONDS = 0.5  # for all that one client says; they are answered one after the other
_LOOK_SECONDS = 0.05
_MAX_HEAD_BYTES = 65_536


@contextlib.contextmanager
def answering_not_yet(listener: socket.socket) -> Iterator[None]:
    """Listen, and answer 503 to everything until the end of the block. Who is in the queue then is served by who comes next."""
    listener.listen(socket.SOMAXCONN)
    is_over = threading.Event()
    thread = threading.Thread(target=_answer_all, args=(listener, is_over), name="starting")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        listener.settimeout(None)


def _answer_all(listener: socket.socket, is_over: threading.Event) -> None:
    listener.settimeout(_LOOK_SECONDS)
    while not is_over.is_set():
        with contextlib.suppress(OSError):  # nobody came, or who came has gone
            client, _ = listener.accept()
            with client:
                _answer(client)


def _answer(client: socket.socket) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD_BYTES:
        part = _received(client, until)
        if not part:
            return
        head += part
    client.sendall(_not_yet())
    client.shutdown(socket.SHUT_WR)
    # a body that nobody reads would make the connection break before the answer is read
    while _received(client, until):
        pass


def _received(client: socket.socket, until: float) -> bytes:
    """What comes next; nothing where the client is done. Raises TimeoutError when the time is over."""
    left_seconds = until - time.monotonic()
    if left_seconds <= 0:
        raise TimeoutError
    client.settimeout(left_seconds)
    return client.recv(65_536)


def _not_yet() -> bytes:
    error = Overloaded(
        "the model is being loaded; try again soon",
        code="starting",
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )
    body = json.dumps({"status": "starting", **error.body()}).encode()
    lines = [
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name.lower()}: {value}" for name, value in error.headers().items()),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


__all__ = ["answering_not_yet"]
