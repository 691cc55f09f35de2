"""Who is measured: processes of their own, of which one is awake at a time.

A party that waits for its turn is stopped by a signal: some servers spin while nobody asks.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CLIENT = Path(__file__).with_name("client.py")
_START_SECONDS = 900  # vLLM compiles for minutes where others work too
_ANSWER_SECONDS = 600
_END_SECONDS = 20


class NotMeasured(Exception):
    """Why there is no figure; the row says it."""


@dataclass(frozen=True, slots=True)
class Took:
    """Until the last request had its first token; until all were answered; tokens of all answers."""

    first_seconds: float
    all_seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Prompts that are asked for at once, all of one length, and how many tokens each answer has.

    texts    what the prompts say: servers are asked by text, which all of them take.
    engine   which of our engines answers; the others don't look at it.
    """

    prompts: Sequence[Sequence[int]]
    texts: Sequence[str]
    answer_tokens: int
    engine: Mapping[str, Any] = field(default_factory=dict)


class Process:
    """A process group that can be put to sleep. What it logs goes to a file."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str], *, talks: bool
    ) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        pipe = subprocess.PIPE if talks else None
        self.popen = subprocess.Popen(
            [str(part) for part in command],
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or self._log,
            stderr=self._log,
            env={**os.environ, **env},
            start_new_session=True,
        )

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def log_end(self, size: int = 300) -> str:
        """The last that it logged, in one line."""
        self._log.seek(0)
        return " ".join(self._log.read().decode(errors="replace").split())[-size:]

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(_END_SECONDS)
        self.signal(signal.SIGKILL)  # also what it started and left
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self._log):
            if pipe is not None:
                pipe.close()


class Worker:
    """A model in a process that is asked through pipes, one line each way. says_how_built: it answers {"about": true}."""

    def __init__(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        says_how_built: bool = False,
    ) -> None:
        self.process = Process(command, env, talks=True)
        self.says_how_built = says_how_built

    def ask(self, ask: Ask) -> Took:
        body = {"prompts": ask.prompts, "answer_tokens": ask.answer_tokens, **ask.engine}
        return Took(**self.say(body))

    def say(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Raises NotMeasured with the worker's error, also where it is gone or says nothing for too long."""
        popen = self.process.popen
        assert popen.stdin is not None
        assert popen.stdout is not None
        try:
            popen.stdin.write(json.dumps(body).encode() + b"\n")
            popen.stdin.flush()
        except BrokenPipeError:
            raise NotMeasured(self.process.log_end()) from None
        if not select.select([popen.stdout], [], [], _ANSWER_SECONDS)[0]:
            raise NotMeasured(f"no answer in {_ANSWER_SECONDS} seconds")
        line = popen.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"error": self.process.log_end()}
        if "error" in said:
            raise NotMeasured(said["error"])
        return said


class HttpServer:
    """A server that streams completions; made when it is ready.

    extra   fields of a request that it wants beside the usual ones.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        model: str,
        port: int,
        extra: Mapping[str, Any],
    ) -> None:
        self.process = Process(command, env, talks=False)
        self.port, self.model, self._extra = port, model, extra
        try:
            self._await_health()
        except BaseException:  # also where we are told to stop: nobody else knows of it yet
            self.process.end()
            raise

    def ask(self, ask: Ask) -> Took:
        bodies = [self._body(text, ask.answer_tokens) for text in ask.texts]
        asked = json.dumps({"port": self.port, "bodies": bodies})
        done = subprocess.run(
            [sys.executable, "-I", str(CLIENT)],
            input=asked,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotMeasured(" ".join(done.stderr.split())[-300:])
        return Took(**json.loads(done.stdout))

    def _body(self, text: str, answer_tokens: int) -> dict[str, Any]:
        usual = {"model": self.model, "prompt": text, "max_tokens": answer_tokens}
        return {**usual, "temperature": 0, "stream": True, **self._extra}

    def _await_health(self) -> None:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if _answers(self.port):
                return
            if self.process.popen.poll() is not None:
                break
            time.sleep(0.3)
        raise NotMeasured(f"it did not start: {self.process.log_end()}")


Party = Worker | HttpServer


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextlib.contextmanager
def awake(party: Party) -> Iterator[None]:
    party.process.signal(signal.SIGCONT)
    try:
        yield
    finally:
        party.process.signal(signal.SIGSTOP)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
