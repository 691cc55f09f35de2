"""What metrics say fills the hours without spans, and never counts on top of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
import time_machine
from django.conf import settings
from django.db.models import Sum

from collectors.observation import Decoded, Meter, Observation, Tags, TokenPoint, Vantage
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import ingest, spanned, spans, token_streams
from costwatch.attribution.audit import differences
from costwatch.attribution.gaps import USE_COLUMNS
from costwatch.attribution.models import IngestHour, UsageHour
from costwatch.attribution.rollups import add_batches
from costwatch.attribution.token_models import MetricUse, SpannedHour, TokenHour
from costwatch.attribution.token_streams import MOST_POINTS
from tests.attribution.points import MINUTE, delta, token_point
from tests.factories import NOON, OrganizationFactory, body, ingest_key, observation

HOUR = timedelta(hours=1)
FIRST = NOON.replace(minute=0)


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def send(key: IngestKey, *points: TokenPoint, seen: Sequence[Observation] = ()) -> dict[str, int]:
    decoded = body(*seen)
    decoded.token_points = list(points)
    outcomes = ingest.take(key, decoded).outcomes
    add_batches(key.organization_id)
    return dict(outcomes)


def by_hour(key: IngestKey, name: str = "input_tokens") -> dict[datetime, int]:
    rows = UsageHour.objects.filter(organization=key.organization_id).values_list("hour")
    return {hour: int(total) for hour, total in rows.annotate(Sum(name)) if total}


def used(key: IngestKey) -> dict[str, int]:
    sums = UsageHour.objects.filter(organization=key.organization_id).aggregate(
        **{f"{name}_": Sum(name) for name in USE_COLUMNS}
    )
    return {name: int(sums[f"{name}_"]) for name in USE_COLUMNS if sums[f"{name}_"]}


def test_a_service_without_spans_is_counted_from_its_metrics(key: IngestKey) -> None:
    outcomes = send(
        key,
        token_point(NOON + MINUTE, 300, 3),
        token_point(NOON + MINUTE, 70, meter=Meter.OUTPUT),
    )
    assert used(key) == {"calls": 3, "input_tokens": 300, "output_tokens": 70}
    assert outcomes == {"token metric: counted": 2}
    row = UsageHour.objects.get(calls=3)
    assert (row.source.service_name, row.offering.model) == ("shop", "gpt-4o-2024-08-06")


def test_a_cumulative_reading_counts_what_it_adds(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3))
    send(key, token_point(NOON + 2 * MINUTE, 500, 5))
    outcomes = send(key, token_point(NOON + 2 * MINUTE, 500, 5))
    assert used(key) == {"calls": 5, "input_tokens": 500}
    assert outcomes == {"token metric: sent before": 1}


def test_a_process_that_starts_again_counts_from_zero(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3))
    send(key, token_point(NOON + 3 * MINUTE, 200, 2, since=NOON + 2 * MINUTE))
    assert used(key) == {"calls": 5, "input_tokens": 500}


def test_a_delta_sent_again_adds_nothing(key: IngestKey) -> None:
    one = delta(NOON, NOON + MINUTE, 300, 3)
    send(key, one)
    send(key, one, delta(NOON + MINUTE, NOON + 2 * MINUTE, 100, 1))
    assert used(key) == {"calls": 4, "input_tokens": 400}


def test_a_series_that_is_exported_too_often_is_cut_off_and_that_is_said(key: IngestKey) -> None:
    begun = [NOON + timedelta(milliseconds=number) for number in range(MOST_POINTS + 50)]
    outcomes = send(key, *(delta(at, at + timedelta(milliseconds=1), 1, 1) for at in begun))
    assert used(key) == {"calls": MOST_POINTS, "input_tokens": MOST_POINTS}
    assert outcomes == {
        "token metric: counted": MOST_POINTS,
        "token metric: not counted, more than 10,000 points of a series in an hour": 50,
    }


def test_two_processes_without_a_name_may_count_at_the_same_time(key: IngestKey) -> None:
    send(key, delta(NOON, NOON + 9 * MINUTE, 300, 3), delta(NOON + MINUTE, NOON + 2 * MINUTE, 5, 1))
    assert used(key) == {"calls": 4, "input_tokens": 305}


def test_what_spans_two_hours_is_split_by_time_in_whole_tokens(key: IngestKey) -> None:
    send(key, token_point(NOON + 60 * MINUTE, 301, 3))
    assert by_hour(key) == {FIRST: 151, FIRST + HOUR: 150}
    assert by_hour(key, "calls") == {FIRST: 2, FIRST + HOUR: 1}


def test_what_spans_two_hours_is_split_the_same_whatever_came_first(key: IngestKey) -> None:
    later, earlier = token_point(NOON + 45 * MINUTE, 450), token_point(NOON + 25 * MINUTE, 50)
    send(key, later)
    assert by_hour(key) == {FIRST: 300, FIRST + HOUR: 150}
    send(key, earlier)
    assert by_hour(key) == {FIRST: 150, FIRST + HOUR: 300}


def test_metrics_that_come_after_spans_of_the_same_hour_do_not_count(key: IngestKey) -> None:
    send(key, seen=[observation()])
    outcomes = send(key, token_point(NOON + MINUTE, 300, 3))
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}
    assert outcomes == {"token metric: not counted, spans or better metrics are sent": 1}


def test_spans_that_come_later_take_back_what_metrics_counted(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3))
    send(key, seen=[observation()])
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}
    rows = MetricUse.objects.order_by("pk").values_list("calls", "input_tokens")
    assert list(rows) == [(3, 300), (-3, -300)]


def test_spans_of_another_hour_or_service_or_environment_leave_metrics_alone(
    key: IngestKey,
) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3))
    send(key, seen=[observation(at=NOON - HOUR), observation(service_name="bot")])
    send(key, seen=[observation(environment="staging")])
    assert used(key)["calls"] == 6


def test_spans_sent_with_another_key_count_as_much(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3))
    send(ingest_key(key.organization), seen=[observation()])
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


def test_a_wrapper_is_no_call(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3), seen=[observation(is_wrapper=True)])
    assert used(key) == {"calls": 3, "input_tokens": 300}


def test_a_call_at_the_end_of_an_hour_is_not_counted_again_in_the_next(key: IngestKey) -> None:
    """Its metric comes with a reading of the next hour, in which no span began."""
    send(key, token_point(FIRST + 59 * MINUTE, 0, 0), token_point(FIRST + 61 * MINUTE, 100, 1))
    send(key, seen=[observation(at=FIRST + 58 * MINUTE, duration_ns=90 * 10**9)])
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


def test_a_call_that_runs_into_the_next_hour_is_not_counted_there(key: IngestKey) -> None:
    send(key, seen=[observation(at=FIRST + 58 * MINUTE, duration_ns=300 * 10**9)])
    send(key, token_point(FIRST + 62 * MINUTE, 0, 0), token_point(FIRST + 64 * MINUTE, 100, 1))
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


def test_a_counter_of_unknown_beginning_counts_from_its_first_reading(key: IngestKey) -> None:
    first = token_point(NOON, 10_000, 90, since=NOON)
    assert send(key, first) == {"token metric: a first reading, nothing to count yet": 1}
    send(key, token_point(NOON + MINUTE, 10_300, 93, since=NOON))
    assert used(key) == {"calls": 3, "input_tokens": 300}


def test_what_was_counted_days_before_anybody_listened_is_not_counted(key: IngestKey) -> None:
    long_ago = NOON - timedelta(days=30)
    send(key, token_point(NOON, 10_000, 90, since=long_ago))
    send(key, token_point(NOON + MINUTE, 10_300, 93, since=long_ago))
    assert used(key) == {"calls": 3, "input_tokens": 300}


def test_two_instrumentations_of_one_process_are_counted_once(key: IngestKey) -> None:
    framework = {"scope": "pydantic-ai", "response_model": ""}
    send(key, token_point(NOON + MINUTE, 300, 3), token_point(NOON + MINUTE, 290, 2, **framework))
    outcomes = send(key, token_point(NOON + 2 * MINUTE, 295, 3, **framework))
    assert used(key) == {"calls": 3, "input_tokens": 300}
    assert outcomes == {"token metric: not counted, another metric says the same": 1}


def test_instrumentations_of_different_models_are_both_counted(key: IngestKey) -> None:
    other = token_point(NOON + MINUTE, 46, 1, scope="other", request_model="e", response_model="e")
    send(key, token_point(NOON + MINUTE, 300, 3), other)
    assert used(key) == {"calls": 4, "input_tokens": 346}


def test_cached_tokens_leave_the_input_where_a_metric_counts_them(key: IngestKey) -> None:
    cached = token_point(NOON + MINUTE, 120, meter=Meter.CACHE_READ)
    reasoning = token_point(NOON + MINUTE, 9, meter=Meter.REASONING)
    output = token_point(NOON + MINUTE, 70, meter=Meter.OUTPUT)
    send(key, cached)
    send(key, token_point(NOON + MINUTE, 300, 3), reasoning, output)
    assert used(key) == {
        "calls": 3,
        "input_tokens": 180,
        "cache_read_input_tokens": 120,
        "output_tokens": 70,
        "reasoning_output_tokens": 9,
    }


def runtime(at: datetime, tokens: int, calls: int = 0, **fields: object) -> TokenPoint:
    said: dict[str, object] = {
        "vantage": Vantage.SERVER,
        "service_name": "vllm",
        "instance_id": "vllm-0",
        "provider": "vllm",
        "family": "vllm",
        "request_model": "meta/Small",
        "response_model": "",
    }
    return token_point(at, tokens, calls, **(said | fields))


def test_a_runtimes_metrics_count_where_nobody_else_speaks_of_its_model(key: IngestKey) -> None:
    send(key, runtime(NOON + MINUTE, 300), runtime(NOON + MINUTE, 0, 3, meter=Meter.CALLS))
    send(key, seen=[observation()])
    assert used(key) == {"calls": 4, "input_tokens": 400, "output_tokens": 20}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("model", ["Small", "hosted_vllm/meta/small"])
def test_a_runtimes_metrics_give_way_to_spans_of_its_model_from_any_service(
    key: IngestKey, model: str, *, first: bool
) -> None:
    call = observation(request_model=model, response_model="")
    if first:
        send(key, seen=[call])
    send(key, runtime(NOON + MINUTE, 300, 3))
    if not first:
        send(key, seen=[call])
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


@pytest.mark.parametrize("first", [True, False])
def test_a_clients_metrics_give_way_to_spans_of_the_runtime_that_serves_its_model(
    key: IngestKey, *, first: bool
) -> None:
    client = token_point(NOON + MINUTE, 300, 3, request_model="Small", response_model="")
    server = observation(
        vantage=Vantage.SERVER,
        service_name="runtime",
        request_model="small",
        response_model="small-135m",
    )
    other = observation(vantage=Vantage.SERVER, service_name="runtime")
    if first:
        send(key, client)
    send(key, seen=[server])
    if not first:
        send(key, client)
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}
    send(key, client, token_point(NOON + 2 * HOUR, 400, 4, since=NOON + HOUR), seen=[other])
    assert used(key)["calls"] == 6


def test_a_runtimes_spans_without_a_model_speak_of_any(key: IngestKey) -> None:
    send(key, runtime(NOON + MINUTE, 300, 3))
    engine = observation(
        vantage=Vantage.SERVER, service_name="engine", request_model="", response_model=""
    )
    send(key, seen=[engine])
    assert used(key) == {"calls": 1, "input_tokens": 100, "output_tokens": 20}


@pytest.mark.parametrize("first", [True, False])
def test_a_runtimes_metrics_give_way_to_metrics_of_its_clients(
    key: IngestKey, *, first: bool
) -> None:
    client = token_point(NOON + MINUTE, 290, 3, request_model="meta/small", response_model="")
    points = [client, runtime(NOON + MINUTE, 300, 3)]
    for point in points if first else reversed(points):
        send(key, point)
    assert used(key) == {"calls": 3, "input_tokens": 290}


def test_a_runtime_counts_again_when_its_clients_metrics_are_taken_back(key: IngestKey) -> None:
    """Spans of the client that name another model: then nobody speaks of the runtime's any more."""
    client = token_point(NOON + MINUTE, 290, 3, request_model="meta/small", response_model="")
    send(key, client, runtime(NOON + MINUTE, 300, 3))
    send(key, seen=[observation()])
    assert used(key) == {"calls": 4, "input_tokens": 400, "output_tokens": 20}


def test_metrics_name_teams_where_the_resource_or_the_point_does(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3, resource_tags=Tags(team="search")))
    assert UsageHour.objects.get(calls=3).source.team_tag == "search"


def test_points_of_the_future_are_refused_and_the_rest_is_kept(key: IngestKey) -> None:
    far = token_point(NOON + timedelta(days=3650), 300, 3, since=NOON + timedelta(days=3649))
    decoded = Decoded(token_points=[far, token_point(NOON + MINUTE, 300, 3)])
    taken = ingest.take(key, decoded)
    assert [(refusal.count) for refusal in taken.refusals] == [1]
    assert taken.outcomes["token metric: counted"] == 1


def test_old_readings_are_forgotten_and_what_they_counted_is_not(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 100, 1), token_point(NOON + 9 * HOUR, 300, 3))
    send(key, token_point(NOON + MINUTE, 5, 1, service_name="gone"), seen=[observation()])
    with time_machine.travel(NOON + timedelta(days=3), tick=False):
        send(key, token_point(NOON + timedelta(days=3), 1000, 9))
    before = by_hour(key)
    edge = NOON + timedelta(days=settings.RETENTION_DAYS)
    with time_machine.travel(edge + timedelta(days=1), tick=False):
        token_streams.forget_old()
        assert TokenHour.objects.count() == 4  # a day more is kept
    with time_machine.travel(edge + timedelta(days=3), tick=False):
        token_streams.forget_old()
        kept = TokenHour.objects.order_by("hour").values_list("hour", "stream__service_name")
        days = (FIRST + 9 * HOUR, FIRST + timedelta(days=3))
        assert list(kept) == [(day, "shop") for day in days]
        assert not SpannedHour.objects.exists()
        send(key, token_point(edge + timedelta(days=3), 1010, 9))
    after = by_hour(key)
    assert {hour: after[hour] for hour in before if hour in after} == before
    assert sum(after.values()) - sum(before.values()) == 10


def test_what_became_of_token_metrics_stands_in_ingest_health(key: IngestKey) -> None:
    send(key, token_point(NOON + MINUTE, 300, 3))
    [row] = IngestHour.objects.filter(key=key)
    assert (row.outcome, row.items) == ("token metric: counted", 1)


def test_hours_that_are_known_to_have_spans_are_not_written_again(
    key: IngestKey, django_capture_on_commit_callbacks: object
) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        ingest.take(key, body(observation()))

    rows = spans.rows(key, body(observation(), observation()))
    assert spanned.kinds(rows) == {}
    assert SpannedHour.objects.count() == 2  # one for each name of the model


@pytest.mark.django_db(transaction=True)
def test_the_audit_recounts_metrics_and_finds_what_was_tampered_with(
    transactional_db: None,
) -> None:
    key = ingest_key(OrganizationFactory())
    send(key, token_point(NOON + 45 * MINUTE, 301, 3), seen=[observation(service_name="bot")])
    send(key, token_point(NOON + 3 * HOUR, 500, 5))
    send(key, seen=[observation()])
    assert used(key) == {"calls": 4, "input_tokens": 399, "output_tokens": 40}
    assert list(differences()) == []
    UsageHour.objects.filter(hour=FIRST + 2 * HOUR).update(input_tokens=1)
    assert [found.name for found in differences()] == ["input_tokens"]


@pytest.mark.django_db(transaction=True)
def test_the_audit_finds_metrics_that_count_beside_spans(transactional_db: None) -> None:
    key = ingest_key(OrganizationFactory())
    send(key, token_point(NOON + MINUTE, 300, 3))
    SpannedHour.objects.create(
        organization=key.organization,
        hour=FIRST,
        service_name="shop",
        environment="",
        model="",
        vantage=Vantage.CLIENT,
    )
    [found] = differences()
    assert str(found).endswith("metrics of a service that sent spans is 303, the ledger says 0")
