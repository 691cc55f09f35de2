"""What real instrumentations sent, read back to what the provider counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from collectors.observation import Decoded, Observation, Provenance
from collectors.otlp import decode_traces, decompress
from tests.collectors.inheritance import tags_of

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path.parent for path in CORPUS.glob("*/*/expected.json"))

pytestmark = pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.parent.name}/{case.name}" for case in CASES]
)


def decoded(case: Path) -> Decoded:
    """All bodies of a case as one: joined protobuf messages merge."""
    headers = [json.loads(path.read_text()) for path in sorted(case.glob("*.headers.json"))]
    assert {h["content-type"] for h in headers} == {"application/x-protobuf"}
    bodies = [
        decompress(path.read_bytes(), header.get("content-encoding", ""), 10**7)
        for path, header in zip(sorted(case.glob("*.pb")), headers, strict=True)
    ]
    return decode_traces(b"".join(bodies), content_type="application/x-protobuf")


def observations(case: Path) -> dict[str, Observation]:
    return {observation.span_id.hex(): observation for observation in decoded(case).observations}


def expected(case: Path) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((case / "expected.json").read_text())
    return truth


def carriers(case: Path) -> list[tuple[dict[str, Any], dict[str, Any], Observation]]:
    found = observations(case)
    return [
        (call, carrier, found[carrier["span"]])
        for call in expected(case)["calls"]
        for carrier in call["carriers"]
    ]


def test_every_span_of_a_call_gives_the_usage_that_the_provider_counted(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        if call["usage_on_wire"] != "exact":
            continue
        assert _missing_and_wrong(call, carrier, seen) == {}, carrier["span"]
        assert seen.contradiction == ""
        assert seen.provenance is not Provenance.ABSENT


def _missing_and_wrong(
    call: dict[str, Any], carrier: dict[str, Any], seen: Observation
) -> dict[str, Any]:
    """Where the meters are not the truth, or what the library made of it where that is known to be wrong."""
    usage, truth = seen.usage, call["usage"]
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_write_input_tokens or 0)
    counts = {
        "input": (usage.input_tokens or 0) + cached,
        "output": usage.output_tokens or 0,
        "cache_read": usage.cache_read_input_tokens,
        "cache_write": usage.cache_write_input_tokens,
        "reasoning": usage.reasoning_output_tokens,
    }
    right = {
        "input": truth["input_total"],
        "output": truth["output_total"],
        "cache_read": truth["cache_read"],
        "cache_write": truth["cache_write"],
        "reasoning": truth["reasoning"],
    }
    right |= {name: sent for name, (sent, _) in carrier["differs_from_truth"].items()}
    unsaid = [name for name in counts if counts[name] is None and name not in carrier["tokens"]]
    return {
        name: (counts[name], right[name])
        for name in counts
        if counts[name] != right[name] and name not in unsaid
    }


def test_usage_that_never_reached_the_client_is_unknown_and_not_zero(case: Path) -> None:
    for call, _, seen in carriers(case):
        if call["usage_on_wire"] == "exact":
            continue
        assert seen.provenance is Provenance.ABSENT
        assert seen.usage.input_tokens is None
        assert seen.usage.output_tokens is None


def test_every_span_of_a_call_says_which_call_it_was(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        assert not seen.is_wrapper
        assert (seen.provider, seen.request_model, seen.response_model, seen.streaming) == (
            carrier["provider"] or "",
            carrier["request_model"] or "",
            carrier["response_model"] or "",
            carrier["streaming"],
        )
        assert seen.response_id == (
            call["response_id"] if call["response_id"] and carrier["has_response_id"] else ""
        )


def test_a_failed_call_says_how_it_failed(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        assert bool(seen.error_type) == call["error"]
        if carrier["error_type"]:
            assert seen.error_type == carrier["error_type"]


def test_the_time_to_the_first_chunk_is_the_one_that_was_sent(case: Path) -> None:
    for _, carrier, seen in carriers(case):
        if carrier["ttft_s"] is not None:
            assert seen.time_to_first_token_ns == round(carrier["ttft_s"] * 1e9)


def test_the_most_specific_tag_wins(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        tags, paid = call["tags"], tags_of(decoded(case), seen)
        assert (paid.team, paid.customer, paid.user, paid.session) == (
            tags["team"],
            tags["tenant"],
            tags["user"],
            tags["session"],
        ), carrier["span"]


def test_what_is_not_a_call_is_a_wrapper_or_nothing(case: Path) -> None:
    found = observations(case)
    of_calls = {carrier["span"] for _, carrier, _ in carriers(case)}
    for not_a_call in expected(case)["not_calls"]:
        assert not_a_call["span"] not in found or found[not_a_call["span"]].is_wrapper
    assert all(seen.is_wrapper for span, seen in found.items() if span not in of_calls)


def test_every_span_gives_a_link_and_none_is_refused(case: Path) -> None:
    body = decoded(case)
    assert body.refusals == []
    assert len(body.links) == body.items
