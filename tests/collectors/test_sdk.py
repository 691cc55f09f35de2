"""Applications with the providers' real clients, from configure() to what arrives.

OpenTelemetry's providers are one a process, so each application is a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collectors.observation import Decoded, Observation, Provenance, Tags, Usage, Vantage
from collectors.sdk import ConfigurationError, Target, find_target
from tests.collectors.inheritance import tags_of
from tests.collectors.loopback import Loopback, running

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"


def run(script: str, outbox: Path, **environment: str) -> tuple[Loopback, str]:
    """Run an application to its end; what it sent, and what it logged."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with running() as loopback:
        ran = subprocess.run(
            [sys.executable, str(SCRIPTS / script)],
            env=kept
            | {
                "PYTHONPATH": str(ROOT),
                "PROVIDER_URL": loopback.url,
                "COSTWATCH_ENDPOINT": loopback.url,
                "COSTWATCH_KEY": "cw_test",
                "COSTWATCH_OUTBOX": str(outbox),
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    return loopback, ran.stderr


@pytest.fixture(scope="module")
def openai_app(tmp_path_factory: pytest.TempPathFactory) -> Loopback:
    return run("openai_calls.py", tmp_path_factory.mktemp("outbox"))[0]


def by_model(loopback: Loopback) -> dict[str, Observation]:
    found = loopback.observations()
    assert len({seen.request_model for seen in found}) == len(found)
    return {seen.request_model: seen for seen in found}


def test_tags_follow_the_block_into_nested_blocks_threads_and_tasks(openai_app: Loopback) -> None:
    block = Tags("search", "answers", "acme")
    nested = Tags("search", "inner", "acme", "alice", "s-1")
    assert {model: tags_of(Decoded(), seen) for model, seen in by_model(openai_app).items()} == {
        "plain": Tags("default"),
        "silent-stream": Tags("default"),
        "block": block,
        "stream": block,
        "nested": nested,
        "pool": nested,
        "thread": nested,
        "after-nested": block,
        "task-1": Tags("one", "answers", "acme"),
        "task-2": Tags("two", "answers", "acme"),
        "decorated": Tags("default", "decorated"),
        "after-block": Tags("default"),
    }


def test_usage_arrives_as_the_provider_counted_it(openai_app: Loopback) -> None:
    found = by_model(openai_app)
    silent = found.pop("silent-stream")
    assert (silent.usage, silent.provenance) == (Usage(), Provenance.ABSENT)
    assert {(seen.usage.input_tokens, seen.usage.output_tokens) for seen in found.values()} == {
        (20, 3)
    }
    assert {seen.response_id for seen in found.values()} == {f"chatcmpl-{model}" for model in found}
    assert {(seen.vantage, seen.provider) for seen in found.values()} == {
        (Vantage.CLIENT, "openai")
    }
    assert {(seen.service_name, seen.environment) for seen in found.values()} == {("app", "test")}


def test_telemetry_carries_the_key_and_the_provider_learns_nothing(openai_app: Loopback) -> None:
    for path, headers, body in openai_app.telemetry:
        assert headers["authorization"] == "Bearer cw_test", path
        assert b"secret prompt" not in body
        assert b"Paris." not in body
    sent_to_provider = str(openai_app.provider_headers)
    for private in ("search", "acme", "alice", "cw_test", "baggage"):
        assert private not in sent_to_provider


def test_anthropics_client_is_covered(tmp_path: Path) -> None:
    loopback, log = run(
        "anthropic_calls.py", tmp_path, OTEL_RESOURCE_ATTRIBUTES="costwatch.team=default"
    )
    found = loopback.observations()
    assert {(seen.request_model, seen.response_id, seen.tags) for seen in found} == {
        ("block", "msg-block", Tags("search")),
        ("task", "msg-task", Tags("search", customer="acme")),
    }
    assert [seen.usage for seen in found] == [Usage(5, 40, 10, 3)] * 2
    assert [seen.dialect for seen in found] == ["anthropic_sdk"] * 2
    assert log == ""


def test_an_application_keeps_its_own_provider_and_a_second_call_only_warns(
    tmp_path: Path,
) -> None:
    loopback, log = run("own_provider.py", tmp_path)
    [seen] = loopback.observations()
    assert (seen.service_name, seen.tags) == ("theirs", Tags("search", "said by the block"))
    assert log == "costwatch is configured already; this call of configure() does nothing\n"


def test_a_missing_endpoint_or_key_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("OTEL_", "COSTWATCH_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(
        ConfigurationError, match=r"no endpoint; pass configure.endpoint=.*COSTWATCH_END"
    ):
        find_target(None, "cw_1")
    with pytest.raises(
        ConfigurationError, match=r"no ingest key; pass configure.key=.*COSTWATCH_KEY"
    ):
        find_target("http://localhost:4318", None)


def test_opentelemetrys_own_variables_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("OTEL_", "COSTWATCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20cw_1")
    urls = "http://collector:4318/v1/traces", "http://collector:4318/v1/metrics"
    assert find_target(None, None) == Target(*urls, {})
    assert find_target(None, "cw_2").headers == {"authorization": "Bearer cw_2"}


def test_the_attribute_names_load_without_the_sdk() -> None:
    code = "import sys, collectors.semconv; sys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
