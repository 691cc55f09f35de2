"""Invariants 1 to 3: once, nothing lost, sums agree."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Observation, Provenance, SpanLink, Tags, Usage, Vantage
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import dimensions, ingest, partitions, profiles
from costwatch.attribution.audit import differences
from costwatch.attribution.models import (
    Entry,
    IngestHour,
    LatencyHour,
    Profile,
    Source,
    Span,
    UsageHour,
)
from costwatch.attribution.rollups import USAGE_COLUMNS, add_batches
from tests.factories import NOON, OrganizationFactory, body, ingest_key, observation


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def sums(organization_id: int) -> dict[tuple[object, ...], tuple[int, ...]]:
    """All hourly sums of an organization, by what they are about. Rows that came back to zero say nothing."""
    rows = UsageHour.objects.filter(organization_id=organization_id).select_related(
        "source", "offering"
    )
    said: dict[tuple[object, ...], tuple[int, ...]] = {}
    for row in rows:
        about = (
            row.hour,
            row.source.service_name,
            row.source.team_tag,
            row.source.feature,
            row.offering.provider,
            row.offering.model,
            row.offering.device_type,
        )
        values = tuple(getattr(row, name) for name in USAGE_COLUMNS)
        others = said.get(about, (0,) * len(values))
        said[about] = tuple(map(sum, zip(values, others, strict=True)))
    return {about: values for about, values in said.items() if any(values)}


def counted(organization_id: int) -> dict[str, int]:
    return {
        name: sum(values)
        for name, values in zip(
            USAGE_COLUMNS, zip(*sums(organization_id).values(), strict=True), strict=True
        )
        if sum(values)
    }


def send(key: IngestKey, *observations: Observation, links: tuple[SpanLink, ...] = ()) -> None:
    ingest.take(key, body(*observations, links=links))
    add_batches(key.organization_id)


def seen_by_both(response_id: str, *, team: str = "search") -> tuple[Observation, Observation]:
    """One call of our own runtime, as the client and as the server saw it."""
    client = observation(
        response_id=response_id,
        team=team,
        provider="openai",
        request_model="small",
        response_model="small",
        time_to_first_token_ns=90_000_000,
    )
    server = observation(
        response_id=response_id,
        vantage=Vantage.SERVER,
        service_name="runtime",
        provider="costwatch",
        request_model="small",
        response_model="small-135m",
        device_ns=1_234_567_891,
        device_ns_marginal=1_000_000_000,
        device_type="cpu",
        allocation_method="measured",
        at=NOON + timedelta(milliseconds=40),
    )
    return client, server


def test_a_call_is_counted_in_the_hour_in_which_it_began(key: IngestKey) -> None:
    send(key, observation(team="search", usage=Usage(input_tokens=7, output_tokens=3)))
    [(about, values)] = sums(key.organization_id).items()
    assert about[0] == NOON.replace(minute=0)
    assert about[1:4] == ("shop", "search", "")
    row = dict(zip(USAGE_COLUMNS, values, strict=True))
    assert {name: value for name, value in row.items() if value} == {
        "calls": 1,
        "input_tokens": 7,
        "output_tokens": 3,
    }


def test_a_span_sent_twice_is_counted_once(key: IngestKey) -> None:
    span = observation()
    send(key, span, span)
    send(key, span)
    assert counted(key.organization_id) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


def test_client_and_server_of_one_call_are_one_call(key: IngestKey) -> None:
    client, server = seen_by_both("chatcmpl-1")
    send(key, client)
    send(key, server)
    assert counted(key.organization_id) == {
        "calls": 1,
        "input_tokens": 100,
        "output_tokens": 20,
        "device_ns": 1_234_567_891,
        "device_ns_marginal": 1_000_000_000,
    }
    [about] = sums(key.organization_id)
    assert about[1:] == ("shop", "search", "", "costwatch", "small-135m", "cpu")


def test_what_was_wrong_is_reversed_not_edited(key: IngestKey) -> None:
    client, server = seen_by_both("chatcmpl-1")
    send(key, client)
    before = list(Entry.objects.values())
    send(key, server)
    after = list(Entry.objects.order_by("revision", "-sign").values())
    assert [(row["revision"], row["sign"]) for row in after] == [(1, 1), (1, -1), (2, 1)]
    assert before[0] in after
    assert after[1]["input_tokens"] == -100


def test_a_span_around_another_call_is_not_counted(key: IngestKey) -> None:
    outer = observation(vantage=Vantage.FRAMEWORK, team="search")
    inner = observation(
        trace_id=outer.trace_id, parent_span_id=outer.span_id, response_id="chatcmpl-1"
    )
    send(key, inner)
    send(key, outer)
    assert counted(key.organization_id) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}
    [about] = sums(key.organization_id)
    assert about[2] == "search", "the wrapper's team pays for what it wraps"


def test_a_wrapper_is_found_through_a_span_that_comes_last(key: IngestKey) -> None:
    sum_of_several = Usage(input_tokens=300, output_tokens=60)
    outer = observation(vantage=Vantage.FRAMEWORK, usage=sum_of_several)
    between = SpanLink(outer.trace_id, b"between!", outer.span_id, outer.start_unix_ns)
    inner = observation(
        trace_id=outer.trace_id, parent_span_id=b"between!", response_id="chatcmpl-1"
    )
    send(key, inner)
    send(key, outer)
    assert counted(key.organization_id)["calls"] == 2
    send(key, links=(between,))
    assert counted(key.organization_id)["calls"] == 1


@pytest.mark.parametrize("first", [0, 1])
def test_a_frameworks_stream_in_a_trace_of_its_own_joins_the_clients_call(
    key: IngestKey, first: int
) -> None:
    framework = observation(vantage=Vantage.FRAMEWORK, team="search", streaming=True)
    client = observation(
        response_id="chatcmpl-1", at=NOON + timedelta(milliseconds=8), duration_ns=1_400_000_000
    )
    views = [framework, client]
    send(key, views[first])
    send(key, views[1 - first])
    send(key, *views)
    assert counted(key.organization_id) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}
    assert [about[2] for about in sums(key.organization_id)] == ["search"]


def test_equal_calls_at_the_same_time_stay_as_many_as_they_are(key: IngestKey) -> None:
    """Each framework's view joins another client's; none is left over, and none joins twice."""
    frameworks = [
        observation(vantage=Vantage.FRAMEWORK, at=NOON + timedelta(milliseconds=n))
        for n in range(5)
    ]
    clients = [
        observation(
            response_id=f"chatcmpl-{n:024}", at=NOON + timedelta(milliseconds=100 + n), duration_ns=10**9
        )
        for n in range(5)
    ]  # fmt: skip
    send(key, *frameworks[:3])
    send(key, *clients)
    send(key, *frameworks[3:])
    assert counted(key.organization_id)["calls"] == 5


def test_calls_that_only_look_alike_are_not_one(key: IngestKey) -> None:
    send(key, observation(vantage=Vantage.FRAMEWORK), observation(vantage=Vantage.FRAMEWORK))
    send(key, observation(response_id="chatcmpl-1", at=NOON + timedelta(seconds=30)))
    send(key, observation(response_id="chatcmpl-2", usage=Usage(input_tokens=7, output_tokens=3)))
    send(key, observation(response_id="chatcmpl-3", service_name="other"))
    assert counted(key.organization_id)["calls"] == 5


def test_a_random_tag_does_not_fill_the_tables(key: IngestKey, settings: Any) -> None:
    settings.MAX_TAG_VALUES = 5
    for start in range(0, 60, 20):
        send(key, *(observation(feature=f"request-{n}") for n in range(start, start + 20)))
    assert counted(key.organization_id)["calls"] == 60
    assert Profile.objects.count() == Source.objects.count() == 6
    assert Source.objects.filter(feature="other").count() == 1
    warned = IngestHour.objects.get(outcome__startswith="too many values of feature")
    assert warned.items == 55
    raw = Span.objects.exclude(tags=None).values_list("tags__feature", flat=True)
    assert sorted(raw) == sorted(f"request-{n}" for n in range(5, 60))


def test_a_random_tag_around_a_call_does_not_fill_the_tables(key: IngestKey, settings: Any) -> None:
    settings.MAX_TAG_VALUES = 3
    for number in range(9):
        call = observation(parent_span_id=b"handler!")
        tags = Tags(customer=f"random-{number}")
        handler = SpanLink(call.trace_id, b"handler!", None, call.start_unix_ns, tags)
        send(key, call, links=(handler,))
    assert Source.objects.count() == 5, "three, other, and none at all"
    assert counted(key.organization_id)["calls"] == 9


def test_a_failed_attempt_below_a_call_that_went_well_is_no_call(key: IngestKey) -> None:
    call = observation(response_id="chatcmpl-1")
    attempt = observation(
        trace_id=call.trace_id,
        parent_span_id=call.span_id,
        error_type="429",
        provenance=Provenance.ABSENT,
        usage=Usage(),
    )
    send(key, attempt)
    send(key, call)
    assert counted(key.organization_id) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


def test_unknown_usage_is_counted_as_unknown_and_not_as_zero(key: IngestKey) -> None:
    send(key, observation(usage=Usage(), provenance=Provenance.ABSENT))
    assert counted(key.organization_id) == {"calls": 1, "unknown_usage_calls": 1}
    assert Entry.objects.get().input_tokens is None


def test_latencies_follow_a_correction(key: IngestKey) -> None:
    client, server = seen_by_both("chatcmpl-1")
    send(key, server)
    send(key, client)
    kept = LatencyHour.objects.filter(measure="duration").exclude(calls=0)
    assert sum(row.calls for row in kept) == 1


def test_a_span_of_the_future_or_from_before_all_that_is_kept_is_refused_with_a_reason(
    key: IngestKey,
) -> None:
    for days in (1, 2):  # other moments, the same reasons
        future = observation(at=timezone.now() + timedelta(days=days))
        past = observation(at=timezone.now() - timedelta(days=400 + days))
        taken = ingest.take(key, body(future, past, observation()))
        assert {refusal.reason: refusal.count for refusal in taken.refusals} == {
            "lies more than an hour in the future": 1,
            "older than what is kept (400 days)": 1,
        }
    assert dict(IngestHour.objects.values_list("outcome", "items")) == {
        "observation": 2,
        "refused: lies more than an hour in the future": 2,
        "refused: older than what is kept (400 days)": 2,
    }


def test_the_same_span_id_of_two_tenants_is_two_calls(key: IngestKey) -> None:
    other = ingest_key(OrganizationFactory())
    span = observation()
    send(key, span)
    send(other, span)
    assert counted(key.organization_id) == counted(other.organization_id)


# A trace as applications make them: an agent around framework spans around client calls, some of which the
# runtime saw too, with failed attempts in between.
_calls = st.builds(
    dict,
    has_id=st.booleans(),
    framework=st.booleans(),
    server=st.booleans(),
    failed_attempt=st.booleans(),
    usage=st.sampled_from(
        [
            (Provenance.REPORTED, Usage(input_tokens=11, output_tokens=5)),
            (Provenance.REPORTED, Usage(input_tokens=0, output_tokens=0)),
            (Provenance.ABSENT, Usage()),
        ]
    ),
    minutes=st.integers(-70, 70),
    days=st.sampled_from([-3, -2, -1, 0, 0, 0]),
    # Some servers count to a few and begin again, and some answer from a cache.
    again=st.sampled_from(["", "", "chatcmpl-1", "chatcmpl-2"]),
    team=st.sampled_from([None, "search", "support"]),
    around=st.sampled_from([None, "search"]),
    twin=st.booleans(),  # a framework's view in a trace of its own, without an id
)


def _spans_of(calls: Sequence[dict]) -> list[Observation | SpanLink]:
    spans: list[Observation | SpanLink] = []
    for number, call in enumerate(calls):
        at = NOON + timedelta(days=call["days"], minutes=call["minutes"])
        root = observation(at=at, is_wrapper=True, vantage=Vantage.FRAMEWORK, team=call["team"])
        spans.append(root)
        parent = root
        if call["framework"]:
            parent = observation(
                at=at,
                trace_id=root.trace_id,
                parent_span_id=root.span_id,
                vantage=Vantage.FRAMEWORK,
            )
            spans.append(parent)
        link_id = bytes(reversed(parent.span_id))
        tags = Tags(team=call["around"])
        spans.append(SpanLink(root.trace_id, link_id, parent.span_id, parent.start_unix_ns, tags))
        provenance, usage = call["usage"]
        unique = f"chatcmpl-{int.from_bytes(root.trace_id):024}"
        response_id = (call["again"] or unique) if call["has_id"] else ""
        client = observation(
            at=at,
            trace_id=root.trace_id,
            parent_span_id=link_id,
            response_id=response_id,
            provenance=provenance,
            usage=usage,
            request_model=f"model-{number}",
        )
        spans.append(client)
        if call["twin"] and usage.input_tokens and not call["again"]:
            spans.append(
                observation(
                    at=at - timedelta(milliseconds=4),
                    duration_ns=1_600_000_000,
                    vantage=Vantage.FRAMEWORK,
                    usage=usage,
                    request_model=f"model-{number}",
                )
            )
        if call["failed_attempt"]:
            spans.append(
                observation(
                    at=at,
                    trace_id=root.trace_id,
                    parent_span_id=client.span_id,
                    error_type="503",
                    usage=Usage(),
                    provenance=Provenance.ABSENT,
                )
            )
        if call["server"] and response_id:
            spans.append(
                observation(
                    at=at + timedelta(milliseconds=3),
                    response_id=response_id,
                    vantage=Vantage.SERVER,
                    provider="costwatch",
                    device_ns=77,
                    device_type="cpu",
                    usage=Usage(input_tokens=11, output_tokens=5),
                )
            )
    return spans


def _how_many(calls: Sequence[dict]) -> int:
    """Ids that come back at the same time are one call: nothing tells them apart."""
    again = {(c["again"], c["days"], c["minutes"]) for c in calls if c["has_id"] and c["again"]}
    return len(again) + sum(not (call["has_id"] and call["again"]) for call in calls)


def _send_in_pieces(key: IngestKey, spans: Sequence[Observation | SpanLink], sizes: int) -> None:
    for start in range(0, len(spans), sizes):
        piece = spans[start : start + sizes]
        send(
            key,
            *(span for span in piece if isinstance(span, Observation)),
            links=tuple(span for span in piece if isinstance(span, SpanLink)),
        )


class Once(TestCase):
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        calls=st.lists(_calls, min_size=1, max_size=5),
        seed=st.integers(0, 10_000),
        size=st.integers(1, 6),
    )
    def test_order_repetition_and_splitting_change_no_sum(
        self, calls: list[dict], seed: int, size: int
    ) -> None:
        partitions.forget_made()
        dimensions.forget_ids()
        profiles.forget()
        spans = _spans_of(calls)
        whole = ingest_key(OrganizationFactory())
        _send_in_pieces(whole, spans, len(spans))

        pieces = ingest_key(OrganizationFactory())
        chance = random.Random(seed)
        again = [*spans, *chance.sample(spans, len(spans) // 2)]
        chance.shuffle(again)
        _send_in_pieces(pieces, again, size)

        assert sums(pieces.organization_id) == sums(whole.organization_id)
        assert counted(whole.organization_id)["calls"] == _how_many(calls)


@pytest.mark.django_db(transaction=True)
def test_the_audit_finds_a_sum_that_was_tampered_with(transactional_db: None) -> None:
    key = ingest_key(OrganizationFactory())
    client, server = seen_by_both("chatcmpl-1")
    send(key, client)
    send(key, server, observation(team="support"))
    assert list(differences()) == []
    UsageHour.objects.filter(source__team_tag="support").update(output_tokens=21)
    [difference] = differences()
    assert (difference.name, difference.kept, difference.counted) == ("output_tokens", 21, 20)


def test_tags_of_the_call_come_before_those_around_it(key: IngestKey) -> None:
    outer = observation(is_wrapper=True, tags=Tags(team="platform", feature="chat"))
    inner = observation(
        trace_id=outer.trace_id, parent_span_id=outer.span_id, tags=Tags(team="search")
    )
    send(key, outer, replace(inner))
    [about] = sums(key.organization_id)
    assert about[2:4] == ("search", "chat")


def test_a_tag_on_a_plain_span_around_a_call_arrives_later(key: IngestKey) -> None:
    call = observation(parent_span_id=b"handler!", resource_tags=Tags(team="platform"))
    send(key, call)
    assert [about[2] for about in sums(key.organization_id)] == ["platform"]
    handler = SpanLink(
        call.trace_id, b"handler!", b"request!", call.start_unix_ns, Tags(feature="chat")
    )
    request = SpanLink(call.trace_id, b"request!", None, call.start_unix_ns, Tags(team="search"))
    send(key, links=(request,))
    assert [about[2] for about in sums(key.organization_id)] == ["platform"]
    send(key, links=(handler,))
    assert [about[2:4] for about in sums(key.organization_id)] == [("search", "chat")]


def test_spans_that_are_each_others_ancestors_do_not_hang_the_receiver(key: IngestKey) -> None:
    one = observation(span_id=b"span-one", parent_span_id=b"span-two", response_id="1")
    two = observation(
        trace_id=one.trace_id, span_id=b"span-two", parent_span_id=b"span-one", response_id="1"
    )
    send(key, one, two)
    assert counted(key.organization_id)["calls"] == 1


def test_two_calls_that_each_claim_to_wrap_the_other_are_both_counted(key: IngestKey) -> None:
    one = observation(span_id=b"span-one", parent_span_id=b"span-two", response_id="1")
    two = observation(
        trace_id=one.trace_id, span_id=b"span-two", parent_span_id=b"span-one", response_id="2"
    )
    send(key, one)
    send(key, two)
    assert counted(key.organization_id)["calls"] == 2


@pytest.mark.parametrize("hours", [1, 30, 100])
def test_an_id_from_a_servers_counter_is_another_call_when_it_comes_back(
    key: IngestKey, hours: int
) -> None:
    usage = Usage(input_tokens=7, output_tokens=3)
    send(key, observation(response_id="chatcmpl-417"))
    send(key, observation(response_id="chatcmpl-417", at=NOON - timedelta(hours=hours)))
    beside = NOON + timedelta(seconds=1)
    send(key, observation(response_id="chatcmpl-417", at=beside, usage=usage))
    assert counted(key.organization_id) == {"calls": 3, "input_tokens": 207, "output_tokens": 43}


def test_a_providers_own_id_is_one_call_however_late_it_is_told_again(key: IngestKey) -> None:
    response_id = "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b"
    for hours in (0, -40, -20):
        send(key, observation(response_id=response_id, at=NOON + timedelta(hours=hours)))
    assert counted(key.organization_id)["calls"] == 1


def test_an_id_that_everything_carries_is_no_id(key: IngestKey) -> None:
    moments = [NOON + timedelta(milliseconds=number) for number in range(2_001)]
    send(key, *(observation(response_id="chatcmpl-mock", at=at) for at in moments))
    send(key, observation(response_id="chatcmpl-mock"))
    assert counted(key.organization_id)["calls"] == 2_001


def test_a_body_of_one_deep_chain_is_taken(key: IngestKey) -> None:
    call = observation(response_id="chatcmpl-1", team="search")
    ids = [number.to_bytes(8) for number in range(10_000, 13_000)]
    parents = [call.span_id, *ids]
    chain = tuple(
        SpanLink(call.trace_id, own, parent, call.start_unix_ns)
        for own, parent in zip(ids, parents, strict=False)
    )
    send(key, call, links=chain)
    assert counted(key.organization_id)["calls"] == 1


def test_sums_hold_what_no_single_call_could(key: IngestKey) -> None:
    largest = 2**63 - 1
    absurd = Usage(output_tokens=largest)
    send(key, *(observation(usage=absurd, device_ns=largest) for _ in range(3)))
    row = UsageHour.objects.get()
    assert (row.device_ns, row.output_tokens) == (3 * largest, 3 * largest)
