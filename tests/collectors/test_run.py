"""Unmodified programs under `costwatch-collect run`: what arrives is what the provider counted, each call once."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from collectors.observation import Observation, Provenance, Tags, Usage
from tests.collectors.programs import COLLECT, SCRIPTS, collect, environment, script
from tests.collectors.upstream import Log, providing, receiving


@dataclass(frozen=True)
class Ran:
    """One program's run: what the provider counted, what arrived, and what was printed."""

    log: Log
    observations: list[Observation]
    stderr: str
    stdout: str

    def by_model(self) -> dict[str, Observation]:
        assert set(Counter(seen.request_model for seen in self.observations).values()) <= {1}
        return {seen.request_model: seen for seen in self.observations}


def run(name: str, outbox: Path, **variables: str) -> Ran:
    with providing() as (provider, log), receiving() as (receiver, received):
        environ = environment(
            outbox, PROVIDER_URL=provider, COSTWATCH_ENDPOINT=receiver, **variables
        )
        ran = collect(*script(name), environ=environ)
        assert ran.returncode == 0, ran.stderr
        secret = b"the secret prompt"
        assert not [body for _, _, body in received.bodies if secret in body or b"Paris" in body]
        return Ran(log, received.observations(), ran.stderr, ran.stdout)


def assert_same(ran: Ran, *, without_usage: frozenset[str] = frozenset()) -> None:
    """Every call that the provider answered arrived once, with its usage; nothing else did."""
    found = ran.by_model()
    expected = ran.log.by_model()
    assert found.keys() - {"nobody-there"} == expected.keys()
    for model, counted in expected.items():
        seen = found[model]
        if counted.status != 200:
            assert (seen.usage, seen.provenance) == (Usage(), Provenance.ABSENT), model
            assert seen.error_type, model
            continue
        if model in without_usage:
            assert (seen.usage, seen.provenance) == (Usage(), Provenance.ABSENT), model
        else:
            assert (model, seen.usage) == (model, counted.usage)
            assert (model, seen.contradiction) == (model, "")
            assert (model, seen.response_id) == (model, counted.response_id)
            assert not seen.error_type
        if counted.streaming:
            assert seen.streaming, model
    assert {seen.resource_tags for seen in ran.observations} == {Tags("search")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run("unmodified_httpx.py", tmp_path_factory.mktemp("outbox"))


def test_plain_httpx_arrives_as_the_provider_counted_it(plain: Ran) -> None:
    left = frozenset({"abandoned", "async-abandoned", "silent", "failing-stream", "cut-stream"})
    assert_same(plain, without_usage=left)


def test_a_call_that_goes_wrong_says_how(plain: Ran) -> None:
    found = plain.by_model()
    assert {model: found[model].error_type for model in found if found[model].error_type} == {
        "busy": "429",
        "failing-stream": "overloaded_error",
        "cut-stream": "RemoteProtocolError",
        "nobody-there": "ConnectError",
    }


def test_only_streams_have_a_time_to_the_first_chunk(plain: Ran) -> None:
    found = plain.by_model()
    streams = {each.model for each in plain.log.counted if each.streaming}
    assert {model for model, seen in found.items() if seen.time_to_first_token_ns} == streams


def test_the_request_is_the_one_that_the_application_wrote(plain: Ran) -> None:
    for counted in plain.log.counted:
        assert not {"traceparent", "baggage"} & counted.headers.keys()
        assert "search" not in str(counted.headers)
    assert plain.log.by_model()["whole"].headers["accept-encoding"].startswith("gzip, deflate")


@pytest.mark.parametrize("client", ["httpx", "requests", "aiohttp"])
def test_a_request_is_to_the_byte_what_it_is_without_us(tmp_path: Path, client: str) -> None:
    if client == "aiohttp" and find_spec("aiohttp") is None:
        pytest.skip("aiohttp is not installed")
    written = []
    for command in ((), COLLECT):
        with providing() as (provider, log):
            environ = environment(
                tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT="http://127.0.0.1:9"
            )
            whole = [*command, *script(f"unmodified_{client}.py")]
            subprocess.run(whole, env=environ, check=True, timeout=60, capture_output=True)
        written.append(
            {
                model: (counted.body, counted.headers | {"host": ""})
                for model, counted in log.by_model().items()
            }
        )
    assert written[0] == written[1]
    assert len(written[0]) > 4


def test_plain_requests_arrive_as_the_provider_counted_them(tmp_path: Path) -> None:
    ran = run("unmodified_requests.py", tmp_path)
    assert_same(ran, without_usage=frozenset({"abandoned", "cut-stream"}))


@pytest.mark.skipif(
    find_spec("aiohttp") is None and not os.environ.get("TEST_PYTHONPATH"),
    reason="aiohttp is not installed",
)
def test_plain_aiohttp_arrives_as_the_provider_counted_it(tmp_path: Path) -> None:
    ran = run("unmodified_aiohttp.py", tmp_path)
    assert_same(ran, without_usage=frozenset({"abandoned", "cut-stream"}))


def test_an_instrumented_client_is_seen_once_and_its_uninstrumented_calls_too(
    tmp_path: Path,
) -> None:
    ran = run("unmodified_openai.py", tmp_path, COSTWATCH_INSTRUMENTATIONS="installed")
    assert_same(ran)
    assert "covers openai by opentelemetry-instrumentation-genai-openai" in ran.stderr


def test_a_client_whose_requests_can_be_read_is_read_there_and_the_start_says_what_else_could(
    tmp_path: Path,
) -> None:
    ran = run("unmodified_openai.py", tmp_path)
    assert_same(ran)
    assert "covers openai by its HTTP requests (COSTWATCH_INSTRUMENTATIONS=installed: by" in ran.stderr  # fmt: skip


def test_instrumentations_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    environ = environment(
        tmp_path, COSTWATCH_ENDPOINT="http://127.0.0.1:9", COSTWATCH_INSTRUMENTATIONS="all"
    )
    ran = collect(sys.executable, "-c", "print('works')", environ=environ)
    assert (ran.returncode, ran.stdout) == (0, "works\n")
    assert ran.stderr.startswith(
        "costwatch: nothing is collected: COSTWATCH_INSTRUMENTATIONS='all': expected needed"
    )


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_metrics_are_made_only_where_a_sampler_may_leave_spans_out(
    tmp_path: Path, sampler: str
) -> None:
    with providing() as (provider, _), receiving() as (receiver, received):
        environ = environment(
            tmp_path,
            PROVIDER_URL=provider,
            COSTWATCH_ENDPOINT=receiver,
            OTEL_TRACES_SAMPLER=sampler,
        )
        ran = collect(*script("unmodified_openai.py"), environ=environ)
    assert ran.returncode == 0, ran.stderr
    assert bool(received.observations()) == (sampler == "always_on")
    assert bool(received.metrics()) == (sampler == "always_off")


def test_a_client_that_traces_itself_is_seen_once(tmp_path: Path) -> None:
    assert_same(run("unmodified_anthropic.py", tmp_path))


def test_it_says_in_a_few_lines_what_it_covers_and_what_not(plain: Ran) -> None:
    lines = plain.stderr.splitlines()
    assert all(line.startswith("costwatch: ") for line in lines)
    assert lines[0].endswith("/v1/traces for team search")
    assert any(line.startswith("costwatch: covers plain calls of httpx ") for line in lines)
    assert (
        lines[-1]
        == "costwatch: does not cover urllib.request, http.client, gRPC: nothing reads them"
    )
    assert len(lines) < 10


def test_the_program_is_the_process_with_its_exit_code_and_its_signals(tmp_path: Path) -> None:
    environ = environment(tmp_path, COSTWATCH_ENDPOINT="http://127.0.0.1:9")
    ran = collect(sys.executable, "-c", "import sys; sys.exit(7)", environ=environ)
    assert ran.returncode == 7
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [*COLLECT, "--", sys.executable, "-c", code],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == -signal.SIGTERM
    process.stdout.close()


def test_a_program_that_is_not_there_is_refused_as_a_shell_does(tmp_path: Path) -> None:
    environ = environment(tmp_path)
    assert collect("no-such-program", environ=environ).returncode == 127
    ran = collect(environ=environ)
    assert ran.returncode == 2
    assert "no program; say what to run" in ran.stderr


def test_a_program_starts_even_where_nothing_can_be_collected(tmp_path: Path) -> None:
    ran = collect(sys.executable, "-c", "print('works')", environ=environment(tmp_path))
    assert (ran.returncode, ran.stdout) == (0, "works\n")
    assert ran.stderr.startswith("costwatch: nothing is collected: costwatch has no endpoint")


def test_what_waits_for_an_endpoint_that_was_changed_is_mentioned_at_the_start(
    tmp_path: Path,
) -> None:
    with providing() as (provider, _):
        environ = environment(
            tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT="http://127.0.0.1:9"
        )
        collect(*script("one_call.py"), "lost-sight-of", environ=environ)
    [body] = tmp_path.glob("*/*.traces")
    body.rename(body.with_name("00" + body.name[2:]))  # long ago
    environ["COSTWATCH_ENDPOINT"] = "http://127.0.0.1:10"
    ran = collect(sys.executable, "-c", "", environ=environ)
    assert (
        "costwatch: 1 spans and metrics wait for http://127.0.0.1:9/v1/traces, with another endpoint"
        " or key than this; a program that is started with these sends them, or remove"
        f" {body.parent}\n" in ran.stderr
    )


def test_children_modules_and_forked_workers_are_collected_and_say_nothing(tmp_path: Path) -> None:
    with providing() as (provider, log), receiving() as (receiver, received):
        environ = environment(tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT=receiver)
        ran = collect(*script("with_children.py"), environ=environ)
        assert ran.returncode == 0, ran.stderr
        found = sorted(seen.request_model for seen in received.observations())
    assert found == sorted(log.by_model())
    assert len(found) == 4
    assert ran.stderr.count("sends to") == 1


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_a_server_that_forks_its_workers_is_collected_to_the_last_call(
    tmp_path: Path, preload: tuple[str, ...]
) -> None:
    with providing() as (provider, log), receiving() as (receiver, received):
        environ = environment(tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT=receiver)
        environ["PYTHONPATH"] += os.pathsep + str(SCRIPTS)
        socket = tmp_path / "web"
        command = (
            sys.executable, "-m", "gunicorn", "web_app:application", "--bind", f"unix:{socket}",
            "--workers", "2", "--no-control-socket", *preload,
        )  # fmt: skip
        process = subprocess.Popen([*COLLECT, *command], env=environ, stderr=subprocess.PIPE)
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.05)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket), retries=50)) as client:
            for number in range(6):
                assert client.get(f"http://web/call-{number}", timeout=30).text == "ok"
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0
        found = sorted(seen.request_model for seen in received.observations())
    assert found == sorted(log.by_model())
    assert len(found) == 6


def test_one_variable_is_enough_in_a_container(tmp_path: Path) -> None:
    with providing() as (provider, _), receiving() as (receiver, received):
        environ = environment(tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT=receiver)
        folder = subprocess.run(
            [sys.executable, "-m", "collectors.run", "path"],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        environ["PYTHONPATH"] = os.pathsep.join([folder, environ["PYTHONPATH"]])
        subprocess.run([*script("one_call.py"), "here"], env=environ, check=True, timeout=60)
        off = environ | {"COSTWATCH_COLLECT": "0"}
        subprocess.run([*script("one_call.py"), "off"], env=off, check=True, timeout=60)
        assert [seen.request_model for seen in received.observations()] == ["here"]


def test_an_applications_own_telemetry_stays_its_own(tmp_path: Path) -> None:
    ran = run("with_own_telemetry.py", tmp_path)
    assert "Overriding" not in ran.stderr
    assert {
        (seen.request_model, seen.service_name, seen.tags) for seen in ran.by_model().values()
    } == {("library", "theirs", Tags("search")), ("plain", "theirs", Tags("search"))}


def test_another_sitecustomize_still_has_its_turn(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    environ = environment(tmp_path / "outbox", COSTWATCH_ENDPOINT="http://127.0.0.1:9")
    environ["PYTHONPATH"] += os.pathsep + str(tmp_path)
    ran = collect(sys.executable, "-c", "print('program')", environ=environ)
    assert (
        ran.stdout == "theirs\ntheirs\nprogram\n"
    )  # the first is the command's own, which is Python, too


def test_telemetry_of_an_outage_is_delivered_by_the_next_run(tmp_path: Path) -> None:
    with providing() as (provider, _):
        with receiving() as (receiver, received):
            port = int(receiver.rpartition(":")[2])
        environ = environment(tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT=receiver)
        ran = collect(*script("one_call.py"), "in-the-outage", environ=environ)
        assert ran.returncode == 0, ran.stderr
        with receiving(received, port):
            collect(*script("one_call.py"), "after-it", environ=environ)
        assert sorted(seen.request_model for seen in received.observations()) == [
            "after-it",
            "in-the-outage",
        ]
    assert not list(tmp_path.rglob("*.traces"))


def test_what_a_killed_program_had_kept_is_delivered_by_the_next_run(tmp_path: Path) -> None:
    with providing() as (provider, _):
        with receiving() as (receiver, received):
            port = int(receiver.rpartition(":")[2])
        environ = environment(tmp_path, PROVIDER_URL=provider, COSTWATCH_ENDPOINT=receiver)
        process = subprocess.Popen(
            [*COLLECT, *script("one_call.py"), "killed", "stay"],
            env=environ,
            stderr=subprocess.DEVNULL,
        )
        while not list(tmp_path.rglob("*.traces")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        with receiving(received, port):
            collect(*script("one_call.py"), "next", environ=environ)
    assert {seen.request_model for seen in received.observations()} == {"killed", "next"}
