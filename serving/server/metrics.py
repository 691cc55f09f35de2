"""GET /metrics: what the engine does, under vLLM's names where they mean the same, so that its dashboards fit.

Meters    times what the server sees, counts how requests ended and what they wasted, and puts the engine's own figures beside

Names that begin with vllm: are those of vLLM 0.11 to 0.32, with its buckets and labels. Ours begin with costwatch:, which is where
the device's time is, and what of it was in vain.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from serving.accounting.work_model import WorkModelStats
from serving.engine.request import DeviceClock, Finished, FinishReason, Progress
from serving.server.exposition import Family, Histogram, Sample, render
from serving.server.runtime import Stats
from serving.server.telemetry import Counts

_TIME_TO_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_PREEMPTIONS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
# vLLM's words for how a request ended
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    FinishReason.ERROR: "error",
}
_TIMES = {
    "vllm:time_to_first_token_seconds": (
        "Time to first token in seconds.",
        _TIME_TO_FIRST_TOKEN,
    ),
    "vllm:inter_token_latency_seconds": ("Time between tokens in seconds.", _BETWEEN_TOKENS),
    "vllm:request_time_per_output_token_seconds": (
        "Time per output token of a request in seconds, without the first.",
        _BETWEEN_TOKENS,
    ),
    "vllm:e2e_request_latency_seconds": ("Time of a request in seconds.", _LATENCY),
    "vllm:request_queue_time_seconds": ("Time spent waiting in seconds.", _LATENCY),
    "vllm:request_inference_time_seconds": (
        "Time from the first step to the end in seconds.",
        _LATENCY,
    ),
    "vllm:request_prefill_time_seconds": (
        "Time from the first step to the first token in seconds.",
        _LATENCY,
    ),
    "vllm:request_decode_time_seconds": (
        "Time from the first token to the end in seconds.",
        _LATENCY,
    ),
}


class Meters:
    """Is told of every step and end of an answer; render() puts it all together.

    context_tokens is the longest that prompt and answer can be together.
    """

    def __init__(
        self,
        model: str,
        context_tokens: int,
        stats: Callable[[], Stats],
        clocks: Callable[[], Sequence[DeviceClock]],
        spans: Callable[[], Counts],
    ) -> None:
        self._model, self._stats, self._clocks, self._spans = model, stats, clocks, spans
        self._times = {name: Histogram(bounds) for name, (_, bounds) in _TIMES.items()}
        lengths = _lengths(context_tokens)
        self._prompt_lengths, self._answer_lengths = Histogram(lengths), Histogram(lengths)
        self._computed_lengths, self._preemptions = Histogram(lengths), Histogram(_PREEMPTIONS)
        self._ended: Counter[FinishReason] = Counter()
        self._counted: Counter[str] = Counter()

    # What is told

    def progressed(self, progress: Progress, tokens_before: int, since_ns: int) -> None:
        name = "inter_token_latency" if tokens_before else "time_to_first_token"
        self._observe(name, since_ns)

    def finished(self, finished: Finished) -> None:
        self._ended[finished.reason] += 1
        self._count_waste(finished)
        self._time(finished)
        if finished.reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._prompt_lengths.observe(finished.prompt_tokens)
            self._answer_lengths.observe(finished.output_tokens)
            self._computed_lengths.observe(finished.prompt_tokens - finished.cached_tokens)
            self._preemptions.observe(finished.preemptions)

    def _count_waste(self, finished: Finished) -> None:
        waste = finished.waste
        went_well = finished.reason in (FinishReason.STOP, FinishReason.LENGTH)
        self._counted.update(
            {
                "recomputed_tokens": waste.recomputed_tokens,
                "rejected_draft_tokens": waste.rejected_draft_tokens,
                "overrun_tokens": waste.overrun_tokens,
                # all of the time of one that did not come to its end is wasted, which the reason says
                "device_ns_in_vain": waste.device_ns if went_well else 0,
                f"device_ns_{finished.reason}": finished.device_ns,
            }
        )

    def _time(self, finished: Finished) -> None:
        ended_ns, began_ns, first_ns = (
            finished.finished_ns,
            finished.scheduled_ns,
            finished.first_token_ns,
        )
        self._observe("e2e_request_latency", ended_ns - finished.arrived_ns)
        if began_ns is not None:
            self._observe("request_queue_time", began_ns - finished.arrived_ns)
            self._observe("request_inference_time", ended_ns - began_ns)
            if first_ns is not None:
                self._observe("request_prefill_time", first_ns - began_ns)
                self._observe("request_decode_time", ended_ns - first_ns)
        if first_ns is not None and finished.output_tokens > 1:
            each_ns = (ended_ns - first_ns) // (finished.output_tokens - 1)
            self._observe("request_time_per_output_token", each_ns)

    def _observe(self, name: str, time_ns: int) -> None:
        self._times[f"vllm:{name}_seconds"].observe(time_ns / 1e9)

    # What is said

    def render(self) -> str:
        model, stats = {"model_name": self._model}, self._stats()
        as_vllm = [*_fullness(stats), *_tokens(stats), self._ends(), *self._histograms()]
        ours = [*self._device(stats), *_of_work_model(stats.work_model)]
        return render(as_vllm, {**model, "engine": "0"}) + render(ours, model)

    def _ends(self) -> Family:
        ended: list[Sample] = [
            ({"finished_reason": said}, self._ended[reason]) for reason, said in _REASONS.items()
        ]
        return Family("vllm:request_success_total", "counter", "Requests by how they ended.", ended)

    def _histograms(self) -> Iterator[Family]:
        for name, histogram in self._times.items():
            yield Family(name, "histogram", _TIMES[name][0], histogram=histogram)
        for name, meaning, histogram in (
            ("vllm:request_prompt_tokens", "Tokens of prompts.", self._prompt_lengths),
            ("vllm:request_generation_tokens", "Tokens of answers.", self._answer_lengths),
            (
                "vllm:request_prefill_kv_computed_tokens",
                "Tokens of prompts that were not in the cache.",
                self._computed_lengths,
            ),
            ("vllm:request_num_preemptions", "Preemptions of a request.", self._preemptions),
        ):
            yield Family(name, "histogram", meaning, histogram=histogram)

    def _device(self, stats: Stats) -> Iterator[Family]:
        clocks, counted, spans = self._clocks(), self._counted, self._spans()
        yield _counter("costwatch:steps_total", "Steps of the engine.", stats.steps)
        yield Family(
            "costwatch:target_answers_total",
            "counter",
            "Answers by whether their class's target was met: time to the first token, mean time between tokens.",
            [
                ({"class": kind, "target": target, "met": "yes" if met else "no"}, count)
                for (kind, target, met), count in stats.targets_kept.items()
            ],
        )
        yield _counters(
            "costwatch:device_seconds_total",
            "The devices' time by what it went to; the sum is the time since the start, once for each of them.",
            "state",
            {
                "attributed": sum(clock.attributed_ns for clock in clocks) / 1e9,
                "unattributed": sum(clock.unattributed_ns for clock in clocks) / 1e9,
                "idle": sum(clock.idle_ns for clock in clocks) / 1e9,
            },
        )
        yield _counters(
            "costwatch:wasted_device_seconds_total",
            "Attributed time that gave its request nothing: answers that were left or failed, and work in vain.",
            "reason",
            {
                "cancelled": counted[f"device_ns_{FinishReason.CANCELLED}"] / 1e9,
                "failed": counted[f"device_ns_{FinishReason.ERROR}"] / 1e9,
                "in_vain": counted["device_ns_in_vain"] / 1e9,
            },
        )
        yield _counters(
            "costwatch:wasted_tokens_total",
            "Tokens that were computed in vain.",
            "reason",
            {
                "recomputed": counted["recomputed_tokens"],
                "rejected_draft": counted["rejected_draft_tokens"],
                "overrun": counted["overrun_tokens"],
            },
        )
        yield _counters(
            "costwatch:spans_total",
            "Spans about calls; what was neither sent nor lost is on its way.",
            "state",
            {"recorded": spans.recorded, "sent": spans.sent, "lost": spans.lost},
        )


def _fullness(stats: Stats) -> Iterator[Family]:
    used = stats.kv_blocks_used / stats.kv_blocks if stats.kv_blocks else 0.0
    yield _gauge(
        "vllm:num_requests_running", "Requests that steps are computed for.", stats.running
    )
    yield _gauge("vllm:num_requests_waiting", "Requests that wait.", stats.waiting)
    yield _gauge("vllm:kv_cache_usage_perc", "KV cache in use; 1 is all of it.", used)
    yield _counter("vllm:num_preemptions_total", "Preemptions.", stats.preemptions)


def _tokens(stats: Stats) -> Iterator[Family]:
    """What the engine has counted."""
    cached = stats.cached_prompt_tokens
    for name, meaning, tokens in (
        ("prompt_tokens", "Prompt tokens.", stats.prompt_tokens),
        ("generation_tokens", "Tokens of answers.", stats.generated_tokens),
        (
            "prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache.",
            stats.prefix_queried_tokens,
        ),
        (
            "prefix_cache_hits",
            "Prompt tokens found in the prefix cache.",
            stats.prefix_hit_tokens,
        ),
        (
            "prompt_tokens_cached",
            "Prompt tokens that were not computed, for they were in the cache.",
            cached,
        ),
        (
            "spec_decode_num_draft_tokens",
            "Tokens proposed by speculative decoding.",
            stats.draft_tokens,
        ),
        (
            "spec_decode_num_accepted_tokens",
            "Proposed tokens that were right.",
            stats.accepted_draft_tokens,
        ),
    ):
        yield _counter(f"vllm:{name}_total", meaning, tokens)
    yield _counters(
        "vllm:prompt_tokens_by_source_total",
        "Prompt tokens by where they came from.",
        "source",
        {"local_compute": stats.prompt_tokens - cached, "local_cache_hit": cached},
    )


def _of_work_model(model: WorkModelStats) -> Iterator[Family]:
    """What decides the shares of a step's time, and how far off it is."""
    yield _gauge("costwatch:work_model_version", "Fits of the work model so far.", model.version)
    yield _gauge(
        "costwatch:work_model_in_use",
        "1: requests are charged by the work model; 0: by tokens, while it is not fitted or far off.",
        int(model.in_use),
    )
    errors = model.errors
    if errors.median is None or errors.p95 is None or errors.drift is None:
        return
    by_quantile: list[Sample] = [
        ({"quantile": "0.5"}, errors.median),
        ({"quantile": "0.95"}, errors.p95),
    ]
    yield Family(
        "costwatch:step_time_residual_ratio",
        "gauge",
        "Of the last steps: how far the work model was off before it saw them, over the time that they took.",
        by_quantile,
    )
    yield _gauge(
        "costwatch:step_time_drift_ratio",
        "Median of (predicted - measured) / measured of the last steps; far from 0, the fit is of other work or another machine.",
        errors.drift,
    )


def _gauge(name: str, meaning: str, value: float) -> Family:
    return Family(name, "gauge", meaning, [({}, value)])


def _counter(name: str, meaning: str, value: float) -> Family:
    return Family(name, "counter", meaning, [({}, value)])


def _counters(name: str, meaning: str, label: str, values: dict[str, float]) -> Family:
    return Family(name, "counter", meaning, [({label: key}, each) for key, each in values.items()])


def _lengths(most: int) -> list[float]:
    """1, 2, 5, 10, … up to most: vLLM's buckets for numbers of tokens."""
    bounds = (float(step * 10**power) for power in range(len(str(most))) for step in (1, 2, 5))
    return [each for each in bounds if each <= most]


__all__ = ["Meters"]
