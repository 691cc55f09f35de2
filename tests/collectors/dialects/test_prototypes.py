"""A span that is recognised by its bytes says the same as one that is read attribute by attribute."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from collectors.dialects import prototypes
from collectors.dialects.attributes import ROWS
from collectors.observation import Decoded, Observation
from tests.collectors.bodies import decoded as decode
from tests.collectors.bodies import span
from tests.collectors.test_corpus import CASES, decoded

_VALUES = st.one_of(
    st.integers(-2, 3000),
    st.floats(0, 5),
    st.booleans(),
    st.sampled_from(
        ["", "chat", "gpt-4o", "search", "invoke_agent", "LLM", '"quoted"', "12", "ü\n"]
    ),
)
_SCOPES = st.sampled_from(
    ["", "opentelemetry.instrumentation.openai_v2", "openlit.instrumentation.openai", "litellm", "logfire.openai"]
)  # fmt: skip
_SPANS = st.lists(
    st.builds(
        lambda said, kind, failed: (said, kind, failed),
        st.dictionaries(st.sampled_from([*ROWS, "gen_ai.prompt", "http.url"]), _VALUES, max_size=9),
        st.sampled_from([Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def one_by_one(spans: list[Span], scope: str) -> list[Observation]:
    seen = []
    for each in spans:
        prototypes.forget()
        seen += decode(each, scope=scope).observations
    return seen


@settings(max_examples=300, deadline=None)
@given(said=_SPANS, scope=_SCOPES)
def test_what_was_seen_before_changes_no_span(said: list, scope: str) -> None:
    usual = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 3,
    }
    spans = []
    for number, (attributes, kind, failed) in enumerate(said * 2, 1):
        own = {"gen_ai.response.id": f"chatcmpl-{number:024}", "gen_ai.usage.output_tokens": number}
        each = span({**usual, **own, **attributes}, span_id=number.to_bytes(8), kind=kind)
        if failed:
            each.status.code = 2
        spans.append(each)
    cold = one_by_one(spans, scope)
    prototypes.forget()
    assert decode(*spans, scope=scope).observations == cold


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_a_case_says_the_same_when_it_was_seen_before(case: Path) -> None:
    prototypes.forget()
    first: Decoded = decoded(case)
    assert decoded(case) == first


def test_a_long_text_that_nobody_reads_is_not_remembered() -> None:
    prototypes.forget()
    usual = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 3}
    for number in range(3):
        decode(span({**usual, "gen_ai.input.messages": "secret " * 1000 + str(number)}))
    assert all(len(attribute) <= 512 for attribute in prototypes._seen)
