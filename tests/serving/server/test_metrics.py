"""GET /metrics, as a scraper and vLLM's dashboards read it."""

import re
import urllib.request
from collections.abc import Iterator

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.app import build_app
from serving.server.exposition import Family, Histogram, render
from tests.serving.server.asking import chat
from tests.serving.server.fakes import SERVED, FakeEngine, ListRecorder
from tests.serving.server.serving_here import RunningServer, eventually, running

Key = tuple[str, tuple[tuple[str, str], ...]]

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\n]|\\[\\\"n])*\",?)*)\} "
    r"(?P<value>[-+0-9.e]+|\+Inf)"
)
_LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)=\"((?:[^\"\\\n]|\\[\\\"n])*)\"")
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parsed(text: str) -> dict[Key, float]:
    """The samples of a page in Prometheus' text format, by name and labels; asserts that it keeps to its grammar:

    every family is announced once, with its type, before its samples, which stand together; no sample comes twice.
    """
    assert text.endswith("\n")
    found: dict[Key, float] = {}
    kinds: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            assert re.fullmatch(r"# HELP [a-zA-Z_:][a-zA-Z0-9_:]* [^\n]+", line)
        elif line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in kinds
            assert kind in ("counter", "gauge", "histogram")
            kinds[family] = kind
        else:
            sample = _SAMPLE.fullmatch(line)
            assert sample, line
            family = list(kinds)[-1]
            suffix = sample["name"].removeprefix(family)
            assert suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
            labels = tuple(
                (name, re.sub(r"\\.", lambda escape: _ESCAPED[escape[0]], value))
                for name, value in _LABEL.findall(sample["labels"])
            )
            assert (sample["name"], labels) not in found
            found[sample["name"], labels] = float(sample["value"])
    return found


@pytest.fixture
def scraped(engine: FakeEngine, recorder: ListRecorder) -> Iterator["Scraper"]:
    with running(build_app(SERVED, engine, recorder)) as server:
        yield Scraper(server)


class Scraper:
    def __init__(self, server: RunningServer) -> None:
        self.url = server.url

    def text(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            return str(answer.read().decode())

    def value(self, name: str, **labels: str) -> float:
        engine = {"engine": "0"} if name.startswith("vllm:") else {}
        own = {"model_name": "fake-model", **engine, **labels}
        return parsed(self.text())[name, tuple(own.items())]

    def families(self) -> dict[str, tuple[str, frozenset[str]]]:
        """Kind and labels by name, without those that a histogram's samples have."""
        lines = self.text().splitlines()
        kinds = dict(line.split(" ")[2:] for line in lines if line.startswith("# TYPE "))
        found: dict[str, tuple[str, frozenset[str]]] = {}
        for name, labels in parsed(self.text()):
            family = name if name in kinds else name.rpartition("_")[0]
            found[family] = (kinds[family], frozenset(dict(labels)) - {"le"})
        return found

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


def test_what_was_answered_is_counted_under_vllms_names(
    scraped: Scraper, engine: FakeEngine
) -> None:
    engine.fails_on = "boom"
    with scraped.client() as client:
        chat(client, "abc", max_tokens=4)
        chat(client, "abc", max_tokens=4)
        chat(client, "Ends.")
        with pytest.raises(openai.InternalServerError):
            chat(client, "boom")
        engine.hold(after_steps=2)
        with pytest.raises(openai.APITimeoutError):
            chat(client, "abc", timeout=0.3)
    eventually(lambda: engine.open == 0, "the cancellation")
    eventually(
        lambda: scraped.value("vllm:request_success_total", finished_reason="abort"), "its count"
    )
    for reason, count in {"length": 2, "stop": 1, "error": 1, "abort": 1}.items():
        assert scraped.value("vllm:request_success_total", finished_reason=reason) == count
    assert scraped.value("vllm:prompt_tokens_total") == 3 + 3 + 5 + 4 + 3
    assert scraped.value("vllm:prefix_cache_queries_total") == 18
    assert scraped.value("vllm:prefix_cache_hits_total") == 1 + 1
    assert scraped.value("vllm:prompt_tokens_by_source_total", source="local_compute") == 16
    assert scraped.value("vllm:prompt_tokens_by_source_total", source="local_cache_hit") == 2
    assert scraped.value("vllm:request_prefill_kv_computed_tokens_sum") == 3 + 2 + 5
    assert scraped.value("vllm:request_num_preemptions_bucket", le="1.0") == 3
    assert scraped.value("vllm:generation_tokens_total") == 4 + 4 + 4 + 2
    assert scraped.value("vllm:time_to_first_token_seconds_count") == 4
    assert scraped.value("vllm:inter_token_latency_seconds_count") == 3 + 3 + 3 + 1
    assert scraped.value("vllm:e2e_request_latency_seconds_count") == 5
    assert scraped.value("vllm:request_prompt_tokens_bucket", le="2.0") == 0
    assert scraped.value("vllm:request_prompt_tokens_bucket", le="5.0") == 3


def test_what_happens_at_this_instant_is_there_too(scraped: Scraper, engine: FakeEngine) -> None:
    engine.hold(after_steps=1)
    with scraped.client() as client, chat(client, "abc", stream=True) as stream:
        next(stream)
        assert scraped.value("vllm:num_requests_running") == 1
        assert scraped.value("vllm:prompt_tokens_total") == 3, "counted before its answer ends"
        assert scraped.value("vllm:generation_tokens_total") == 1
        assert scraped.value("costwatch:steps_total") == 1
        assert scraped.value("vllm:num_requests_waiting") == 0
        assert scraped.value("vllm:kv_cache_usage_perc") == 0.25
        assert scraped.value("vllm:num_preemptions_total") == 3


def test_the_devices_time_is_there_by_what_it_went_to(scraped: Scraper, engine: FakeEngine) -> None:
    with scraped.client() as client:
        chat(client, "abc", max_tokens=20)
    attributed = scraped.value("costwatch:device_seconds_total", state="attributed")
    assert attributed == engine.clock().attributed_ns / 1e9 > 0
    assert scraped.value("costwatch:device_seconds_total", state="idle") > 0
    assert scraped.value("costwatch:wasted_device_seconds_total", reason="cancelled") == 0
    assert scraped.value("costwatch:spans_total", state="recorded") == 1


# From vllm/v1/metrics/loggers.py and vllm/v1/spec_decode/metrics.py of 0.32; Prometheus' client writes _total behind counters.
_OF_VLLM = {
    "counter": {
        "num_preemptions_total", "prompt_tokens_total", "prompt_tokens_cached_total", "generation_tokens_total",
        "prefix_cache_queries_total", "prefix_cache_hits_total", "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
    },
    "gauge": {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"},
    "histogram": {
        "time_to_first_token_seconds", "inter_token_latency_seconds", "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds", "request_queue_time_seconds", "request_inference_time_seconds",
        "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens",
        "request_generation_tokens", "request_prefill_kv_computed_tokens", "request_num_preemptions",
    },
}  # fmt: skip


def test_vllms_names_have_its_types_and_labels(scraped: Scraper) -> None:
    labels = frozenset({"model_name", "engine"})
    expected = {
        f"vllm:{name}": (kind, labels) for kind, names in _OF_VLLM.items() for name in names
    }
    expected["vllm:prompt_tokens_by_source_total"] = ("counter", labels | {"source"})
    expected["vllm:request_success_total"] = ("counter", labels | {"finished_reason"})
    found = scraped.families()
    assert {name: said for name, said in found.items() if name.startswith("vllm:")} == expected


def test_how_far_off_the_work_model_is_can_be_watched(scraped: Scraper) -> None:
    assert scraped.value("costwatch:work_model_version") == 7
    assert scraped.value("costwatch:work_model_in_use") == 1
    assert scraped.value("costwatch:step_time_residual_ratio", quantile="0.5") == 0.02
    assert scraped.value("costwatch:step_time_residual_ratio", quantile="0.95") == 0.1
    assert scraped.value("costwatch:step_time_drift_ratio") == -0.01


def test_answers_that_came_in_time_are_told_from_those_that_did_not(scraped: Scraper) -> None:
    which = {"class": "interactive", "target": "first_token"}
    assert scraped.value("costwatch:target_answers_total", **which, met="yes") == 3
    assert scraped.value("costwatch:target_answers_total", **which, met="no") == 4


def test_the_histograms_have_vllms_buckets(scraped: Scraper) -> None:
    found = parsed(scraped.text())
    ends = [
        dict(labels)["le"]
        for name, labels in found
        if name == "vllm:time_to_first_token_seconds_bucket"
    ]
    assert ends[:3] == ["0.001", "0.005", "0.01"]
    assert ends[-3:] == ["640.0", "2560.0", "+Inf"]


@given(
    st.lists(st.floats(-10, 10)), st.lists(st.floats(-10, 10), min_size=1, unique=True).map(sorted)
)
def test_a_buckets_count_is_that_of_the_values_up_to_its_end(
    values: list[float], bounds: list[float]
) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    page = parsed(render([Family("h", "histogram", "m", histogram=histogram)], {}))
    for bound in bounds:
        assert page["h_bucket", (("le", repr(bound)),)] == sum(value <= bound for value in values)
    assert page["h_count", ()] == page["h_bucket", (("le", "+Inf"),)] == len(values)
    assert page["h_sum", ()] == pytest.approx(sum(values))


@given(st.text())
def test_any_name_of_a_model_can_be_a_label(model: str) -> None:
    page = parsed(render([Family("c", "counter", "m", [({}, 1)])], {"model_name": model}))
    assert page == {("c", (("model_name", model),)): 1.0}


@pytest.mark.parametrize(
    ("bound", "written"),
    [(0.001, "0.001"), (5.0, "5.0"), (500_000.0, "500000.0"), (1e6, "1e+06"), (2e7, "2e+07")],
)
def test_a_buckets_end_is_written_as_prometheus_own_client_does(bound: float, written: str) -> None:
    page = render([Family("h", "histogram", "m", histogram=Histogram([bound]))], {})
    assert f'h_bucket{{le="{written}"}} 0' in page.split("\n")
