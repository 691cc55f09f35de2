"""What real instrumentations sent, read back to what the provider counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from collectors.observation import Decoded, Observation, Provenance
from collectors.otlp import JSON, PROTOBUF, decode_traces, decompress
from tests.collectors.inheritance import tags_of

CORPUS = Path(__file__).parent / "corpus"
CASES = sorted(path.parent for path in CORPUS.glob("*/*/expected.json"))
LOG = "stream-end log span"

pytestmark = pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.parent.name}/{case.name}" for case in CASES]
)


def decoded(case: Path) -> Decoded:
    """All bodies of a case's traces as one."""
    parts = [part for path in sorted(case.glob("*.headers.json")) if (part := _decoded(path))]
    return Decoded(
        observations=[seen for part in parts for seen in part.observations],
        links=[link for part in parts for link in part.links],
        refusals=[refusal for part in parts for refusal in part.refusals],
        items=sum(part.items for part in parts),
    )


def _decoded(path: Path) -> Decoded | None:
    """What one request held; None where it was not about traces. gRPC's message is the same as HTTP's body."""
    headers = json.loads(path.read_text())
    if headers["_signal"] != "traces":
        return None
    content_type = headers.get("content-type", PROTOBUF)
    suffix = ".json" if content_type == JSON else ".pb"
    body = path.with_name(path.name.replace(".headers.json", suffix)).read_bytes()
    whole = decompress(body, headers.get("content-encoding", ""), 10**7)
    return decode_traces(whole, content_type=content_type)


def observations(case: Path) -> dict[str, Observation]:
    return {observation.span_id.hex(): observation for observation in decoded(case).observations}


def expected(case: Path) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((case / "expected.json").read_text())
    return truth


def carriers(case: Path) -> list[tuple[dict[str, Any], dict[str, Any], Observation]]:
    """The spans that speak of a call, as far as they say something about it, each with the truth."""
    found = observations(case)
    return [
        (call, carrier, found[carrier["span"]])
        for call in expected(case)["calls"]
        for carrier in call["carriers"]
        if carrier["span"] in found
    ]


def opens(call: dict[str, Any], carrier: dict[str, Any]) -> bool:
    """Logfire's streams are two spans: this is the one that ends when the stream begins."""
    kinds = [other["kind"] for other in call["carriers"]]
    return LOG in kinds and carrier["kind"] != LOG


def test_every_span_of_a_call_is_recognised(case: Path) -> None:
    found = observations(case)
    for call in expected(case)["calls"]:
        for carrier in call["carriers"]:
            # LiteLLM's span of the bare request says nothing that can be counted where the answer was a stream.
            assert carrier["span"] in found or carrier["kind"] == "raw child", carrier["span"]


def test_every_span_of_a_call_gives_the_usage_that_the_provider_counted(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        if call["usage_on_wire"] != "exact" or opens(call, carrier):
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
    for call, carrier, seen in carriers(case):
        if call["usage_on_wire"] in ("absent", "error, none expected") or opens(call, carrier):
            assert seen.provenance is Provenance.ABSENT
            assert seen.usage.input_tokens is None
            assert seen.usage.output_tokens is None


def test_usage_that_a_library_made_up_is_marked_as_estimated(case: Path) -> None:
    for call, _, seen in carriers(case):
        if call["usage_on_wire"] == "wrong or estimated":
            assert seen.provenance is Provenance.ESTIMATED


def test_every_span_of_a_call_says_which_call_it_was(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        assert seen.is_wrapper == opens(call, carrier)
        # Where the span has no attribute for it, it may be known from elsewhere; then it must be true.
        assert seen.provider == vendor(carrier) or (
            carrier["provider"] is None and seen.provider == call["provider"]
        )
        for name in ("request_model", "response_model"):
            assert getattr(seen, name) == (carrier[name] or "") or (
                carrier[name] is None and getattr(seen, name) == call[name]
            )
        assert seen.streaming == carrier["streaming"] or (
            carrier["streaming"] is None and seen.streaming == call["streaming"]
        )


def vendor(carrier: dict[str, Any]) -> str:
    """The AI SDK names a provider's API with it: `openai.responses`."""
    said: str = carrier["provider"] or ""
    return said.partition(".")[0] if carrier["scope"] == "ai" else said


def test_the_response_id_is_the_providers(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        if carrier["has_response_id"]:
            assert seen.response_id == call["response_id"]
        elif seen.dialect == "litellm" and call["provider"] != "openai":
            # Its own, which it hands to the application: that is where the application's spans have it from.
            assert seen.response_id.startswith("chatcmpl-")
        else:
            assert seen.response_id in ("", call["response_id"])


def test_a_failed_call_says_how_it_failed(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        assert bool(seen.error_type) == call["error"]
        if carrier["error_type"]:
            assert seen.error_type == carrier["error_type"]


def test_the_time_to_the_first_chunk_is_the_one_that_was_sent(case: Path) -> None:
    for call, carrier, seen in carriers(case):
        if not call["streaming"]:
            assert seen.time_to_first_token_ns is None
        elif carrier["ttft_s"] is not None:
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
    body, found = decoded(case), observations(case)
    of_calls = {carrier["span"] for _, carrier, _ in carriers(case)}
    for span, seen in found.items():
        # A shell says nothing of its own; the call below it does, and takes its place.
        assert span in of_calls or seen.is_wrapper or _is_a_shell(span, seen, body, of_calls), span


def _is_a_shell(span: str, seen: Observation, body: Decoded, of_calls: set[str]) -> bool:
    spans = (*body.observations, *body.links)
    below = {one.span_id.hex() for one in spans if one.parent_span_id == bytes.fromhex(span)}
    says_nothing = seen.provenance is Provenance.ABSENT and not seen.response_id
    return says_nothing and bool(below) and below <= of_calls


def test_every_span_is_an_observation_or_a_link_and_none_is_refused(case: Path) -> None:
    body = decoded(case)
    about = {(seen.trace_id, seen.span_id) for seen in body.observations}
    others = [link for link in body.links if (link.trace_id, link.span_id) not in about]
    assert body.refusals == []
    assert len(body.observations) + len(others) == body.items


def test_the_prompts_and_answers_of_the_sample_are_nowhere(case: Path) -> None:
    kept = repr(decoded(case))
    for text in ("Be brief", "capital", "Weather in", "get_weather"):
        assert text not in kept
