"""Calls that look alike are written column by column, and come to the very same rows as one by one."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from collectors.dialects import prototypes
from collectors.otlp import decode_traces, decode_traces_in_columns
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import dimensions, ingest, partitions, profiles
from costwatch.attribution.models import Entry, IngestHour, Span
from costwatch.attribution.rollups import add_batches
from costwatch.domain.latency import bucket_of, buckets_of
from tests.attribution.test_ingest import sums
from tests.collectors.bodies import NOON_NS, PROTOBUF, request, span
from tests.factories import OrganizationFactory, ingest_key

USUAL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 20,
}
# Each alone is common enough; together they make every kind of row that there is.
MORE: dict[str, Any] = {
    "gen_ai.usage.input_tokens": st.integers(-1, 200) | st.just(10**13),
    "gen_ai.usage.output_tokens": st.integers(0, 50),
    "gen_ai.usage.cache_read.input_tokens": st.integers(0, 150),
    "gen_ai.usage.cache_creation.input_tokens": st.integers(0, 20),
    "gen_ai.usage.reasoning.output_tokens": st.integers(0, 30),
    "llm.usage.total_tokens": st.integers(100, 200),
    "gen_ai.response.id": st.sampled_from(
        ["chatcmpl-1", "chatcmpl-2", *(f"chatcmpl-{number:029}" for number in range(4))]
    ),
    "costwatch.team": st.sampled_from(["search", "ads"]),
    "costwatch.customer": st.sampled_from(["acme", "back\\slash"]),
    "user.id": st.sampled_from(["ann", "b\\N", "ü"]),
    "session.id": st.text(max_size=3),
    "gen_ai.request.stream": st.booleans(),
    "gen_ai.response.time_to_first_chunk": st.floats(0, 2),
    "costwatch.device_ns": st.integers(0, 10**15),
    "costwatch.request_repeated": st.booleans(),
    "error.type": st.just("timeout"),
    "costwatch.request_hash": st.sampled_from(["0123456789abcdef", "f" * 16]),
    "costwatch.prefix_hashes": st.sampled_from(["ABCD_-12", "ABCD_-12" * 20]),
    "costwatch.prompt_bytes": st.integers(0, 5000),
    "costwatch.request_deterministic": st.booleans(),
}


@st.composite
def spans(draw: st.DrawFn, number: int) -> OtlpSpan:
    chosen = draw(st.lists(st.sampled_from(sorted(MORE)), max_size=4, unique=True))
    said = USUAL | {name: draw(MORE[name]) for name in chosen}
    if draw(st.integers(0, 4)) == 0:  # an agent's span, or nobody's
        said = draw(st.sampled_from([{"gen_ai.operation.name": "invoke_agent"}, {"costwatch.team": "above"}, {}]))  # fmt: skip
    start_ns = NOON_NS + draw(st.integers(0, 3)) * 1_700_000_000_001 - draw(st.integers(0, 1))
    return span(
        said,
        number=number,
        parent=draw(st.sampled_from([0, 0, 1, 2, 13])),
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + draw(st.integers(0, 3_000_000_000)),
    )


@st.composite
def bodies(draw: st.DrawFn) -> list[list[OtlpSpan]]:
    """Some spans, in one to three bodies, some of them more than once."""
    sent = [draw(spans(number)) for number in range(1, draw(st.integers(2, 12)))]
    body = st.lists(st.sampled_from(sent), min_size=1, max_size=12)
    return draw(st.lists(body, min_size=1, max_size=3))


def everything(organization_id: int) -> tuple[Any, ...]:
    """All rows of an organization, without what differs between two that were sent the same."""
    spans = Span.objects.filter(organization_id=organization_id).select_related("profile")
    entries = Entry.objects.filter(organization_id=organization_id)
    return (
        sorted(str(_values(row)) for row in spans),
        sorted(
            str({**_values(row), "source": str(row.source), "offering": str(row.offering)})
            for row in entries.select_related("source", "offering")
        ),
        sums(organization_id),
        sorted(
            IngestHour.objects.filter(organization_id=organization_id).values_list(
                "outcome", "items"
            )
        ),
    )


def _values(row: Span | Entry) -> dict[str, Any]:
    hidden = {"organization_id", "batch_id", "source_id", "offering_id", "profile_id"}
    values = {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if field.attname not in hidden
    }
    return {name: bytes(v) if isinstance(v, memoryview) else v for name, v in values.items()} | {
        "facts": row.profile.facts if isinstance(row, Span) and row.profile else None
    }


class Alike(TestCase):
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(sent=bodies())
    def test_columns_come_to_the_same_rows_as_one_by_one(self, sent: list[list[OtlpSpan]]) -> None:
        partitions.forget_made()
        dimensions.forget_ids()
        profiles.forget()
        one, other = (ingest_key(OrganizationFactory()) for _ in range(2))
        for some in sent:
            body = request(*some, resource={"service.name": "shop"}).SerializeToString()
            prototypes.forget()
            ingest.take(one, decode_traces(body, content_type=PROTOBUF))
            for _ in range(2):  # what is decoded again is recognised
                decoded = decode_traces_in_columns(body, content_type=PROTOBUF)
            ingest.take(other, decoded)
        for key in (one, other):
            add_batches(key.organization_id)
        assert everything(one.organization_id) == everything(other.organization_id)


def test_most_calls_lie_in_sheets(organization: Organization) -> None:
    body = request(*(span(USUAL, number=number) for number in range(1, 9))).SerializeToString()
    for _ in range(2):
        decoded = decode_traces_in_columns(body, content_type=PROTOBUF)
    assert (len(decoded.observations), sum(map(len, decoded.sheets))) == (0, 8)
    ingest.take(ingest_key(organization), decoded)
    assert Entry.objects.count() == 8


@given(
    st.lists(
        st.integers(0, 2**63 - 1) | st.integers(0, 200).map(lambda n: round(1.04**n)), min_size=1
    )
)
def test_buckets_of_many_are_those_of_each(values_ns: list[int]) -> None:
    assert buckets_of(np.array(values_ns, np.int64)).tolist() == list(map(bucket_of, values_ns))


def test_sums_of_more_than_62_bits_are_exact(organization: Organization) -> None:
    key: IngestKey = ingest_key(organization)
    said = {**USUAL, "costwatch.device_ns": 10**15}
    many = [span(said, number=number) for number in range(1, 4_801)]
    body = request(*many).SerializeToString()
    for _ in range(2):
        decoded = decode_traces_in_columns(body, content_type=PROTOBUF)
    ingest.take(key, decoded)
    add_batches(organization.pk)
    [(_, values)] = sums(organization.pk).items()
    assert 4_800 * 10**15 in values
