"""TGI's spans: its phases as its router writes them, on a device that somebody names, and not otherwise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.observation import Observation, Usage, Vantage
from tests.collectors.bodies import decoded, span

# Of router/src/server.rs, as it writes std::time::Duration with {:?}.
SAID = {
    "total_time": "2.305118734s",
    "validation_time": "431.337µs",
    "queue_time": "103.204ms",
    "inference_time": "2.201483197s",
    "time_per_token": "27.518539ms",
    "seed": "None",
}
ON_A_DEVICE = {"service.name": "tgi-0", "costwatch.device_type": "NVIDIA L4", "hw.id": "GPU-1"}


def requests(said: dict[str, Any], resource: dict[str, str], name: str) -> list[Observation]:
    return list(
        decoded(span(said, name=name), scope="opentelemetry-otlp", resource=resource).observations
    )


def written(duration_ns: int) -> str:
    """As Rust does: in the largest unit that has a whole part, without zeros at the end."""
    for unit, ns in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if duration_ns >= ns:
            whole, rest = divmod(duration_ns, ns)
            digits = f"{rest:0{len(str(ns)) - 1}d}".rstrip("0")
            return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"
    return f"{duration_ns}ns"


def test_a_request_says_its_phases_and_how_many_tokens_came_out() -> None:
    [seen] = requests(SAID, ON_A_DEVICE, "chat_completions")
    assert (seen.dialect, seen.vantage, seen.operation) == ("tgi", Vantage.SERVER, "chat")
    assert (seen.queue_ns, seen.decode_ns) == (103_204_000, 2_201_483_197)
    assert seen.time_per_output_token_ns == 27_518_539
    assert seen.usage == Usage(output_tokens=80)
    assert (seen.device_type, seen.device_ids, seen.provider) == ("NVIDIA L4", "GPU-1", "tgi")
    [other] = requests(SAID, ON_A_DEVICE, "generate_stream")
    assert other.operation == "text_completion"


def test_where_nobody_names_the_device_its_metrics_count() -> None:
    assert requests(SAID, {"service.name": "tgi-0"}, "generate") == []


@pytest.mark.parametrize("missing", ["queue_time", "inference_time", "time_per_token"])
def test_a_request_that_was_not_answered_is_none(missing: str) -> None:
    said = {name: value for name, value in SAID.items() if name != missing}
    assert requests(said, ON_A_DEVICE, "generate") == []
    assert requests({**SAID, missing: "soon"}, ON_A_DEVICE, "generate") == []


@given(st.integers(1, 8192), st.integers(100_000, 10**9), st.integers(0, 10**9))
def test_tokens_are_had_back_exactly(tokens: int, each_ns: int, rest_ns: int) -> None:
    inference_ns = tokens * each_ns + rest_ns % tokens
    said = {
        **SAID,
        "inference_time": written(inference_ns),
        "time_per_token": written(inference_ns // tokens),
    }
    [seen] = requests(said, ON_A_DEVICE, "generate")
    assert (seen.decode_ns, seen.usage.output_tokens) == (inference_ns, tokens)
