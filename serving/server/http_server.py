"""uvicorn, which says when it is ready and lets everything come to its end."""

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from serving.server.app import Application

_LAST_BYTES_SECONDS = 1  # for answers that are written and not yet sent


class HttpServer(uvicorn.Server):
    """Calls when_ready once connections are taken.

    Told to stop, it goes on listening, so that who asks is told to go elsewhere, until every call is answered or
    drain_seconds are over; then what is left is cancelled. Told twice, it does not wait.
    """

    def __init__(
        self, app: Application, drain_seconds: float, when_ready: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
            )
        )
        self._desk, self._drain_seconds = app.desk, drain_seconds
        self._when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._when_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._desk.door.is_draining:
            super().handle_exit(sig, frame)
        else:
            self.drain()

    def drain(self) -> None:
        """Take no more requests; end when those under way are answered."""
        self._desk.door.drain(self._drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        door = self._desk.door
        if door.is_draining and (door.drain_is_over or not self._desk.open_calls):
            self.should_exit = True
        return await super().on_tick(counter)


__all__ = ["HttpServer"]
