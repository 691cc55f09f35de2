"""Device time of runtimes that do not measure it."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import (
    Decoded,
    DeviceTime,
    Observation,
    Provenance,
    Tags,
    Usage,
    Vantage,
)
from costwatch.accounts.models import Organization
from costwatch.attribution import dimensions, ingest, modelled, partitions, profiles, spanned
from costwatch.attribution.audit import differences
from costwatch.attribution.models import CapacityHour, Entry, HourToModel, UsageHour
from costwatch.attribution.rollups import add_batches
from costwatch.domain.periods import Period
from costwatch.pricing import cost
from tests.factories import NOON, OrganizationFactory, ingest_key, observation
from tests.pricing import usage
from tests.pricing.usage import device_price

SECOND = 1_000_000_000
HOUR = NOON.replace(minute=0)
START_NS = int(HOUR.timestamp()) * SECOND


def served(
    number: int, at: float, in_model: float, *, queue: float = 0, **said: object
) -> Observation:
    """A runtime's span of a call that waited from `at` on, seconds after the hour began, and then was in the model."""
    start_ns = START_NS + int(at * SECOND)
    wanted = {
        "span_id": number.to_bytes(8),
        "trace_id": number.to_bytes(16),
        "response_id": f"chatcmpl-{number:032x}",
        "start_unix_ns": start_ns,
        "end_unix_ns": start_ns + int((queue + in_model) * SECOND),
        "queue_ns": int(queue * SECOND),
        "prefill_ns": int(in_model * SECOND) // 4,
        "decode_ns": int(in_model * SECOND) - int(in_model * SECOND) // 4,
        "dialect": "vllm",
        "vantage": Vantage.SERVER,
        "provider": "vllm",
        "service_name": "vllm-small",
        "device_type": "H100",
        "usage": Usage(input_tokens=10, output_tokens=5),
        "provenance": Provenance.REPORTED,
    }
    return observation(**{**wanted, **said})


def take(organization: Organization, *seen: Observation) -> None:
    with TestCase.captureOnCommitCallbacks(execute=True):
        usage.take(organization, *seen)


def model(organization: Organization) -> int:
    """Model what is due, until nothing changes; returns how many calls changed."""
    changed = 0
    for _ in range(4):
        due = [hour for pk, hour in modelled.due(timezone.now()) if pk == organization.pk]
        changed += sum(modelled.model_hour(organization.pk, hour) for hour in due)
        with TestCase.captureOnCommitCallbacks(execute=True):
            add_batches(organization.pk)
    assert organization.pk not in dict(modelled.due(timezone.now()))
    return changed


def device_seconds(organization: Organization) -> dict[str, Decimal]:
    """What the ledger holds, by the second in which a call began."""
    held: dict[str, Decimal] = {}
    for entry in Entry.objects.filter(organization=organization).exclude(device_ns=None):
        began = f"{(entry.started_at - HOUR).total_seconds():g}"
        held[began] = held.get(began, Decimal(0)) + Decimal(entry.device_ns or 0) / SECOND
    return held


def rolled_up(organization: Organization) -> Decimal:
    rows = UsageHour.objects.filter(organization=organization)
    return Decimal(sum(row.device_ns for row in rows)) / SECOND


def test_calls_that_were_in_the_model_together_share_the_time(organization: Organization) -> None:
    take(organization, served(1, 0, 10), served(2, 3, 12, queue=2))  # 0–10 and 5–17
    assert model(organization) == 2
    assert device_seconds(organization) == {"0": Decimal("7.5"), "3": Decimal("9.5")}
    entry = Entry.objects.filter(organization=organization, sign=1, revision=2).first()
    assert entry is not None
    assert (entry.offering.device_type, entry.offering.allocation_method) == ("H100", "modelled")
    assert rolled_up(organization) == sum(device_seconds(organization).values())


def test_modelled_time_is_paid_at_the_devices_price(organization: Organization) -> None:
    device_price(organization, "H100", "36")
    take(organization, served(1, 0, 10))
    model(organization)
    day = Period(HOUR, HOUR + timedelta(hours=1))
    assert cost.total(organization, day).cost == Decimal("0.1")


def test_a_late_call_takes_its_part_from_those_beside_it(organization: Organization) -> None:
    take(organization, served(1, 0, 10))
    model(organization)
    take(organization, served(2, 0.5, 10, queue=0), served(3, 100, 1))
    assert model(organization) == 3
    held = device_seconds(organization)
    assert held == {"0": Decimal("5.25"), "0.5": Decimal("5.25"), "100": Decimal(1)}
    assert model(organization) == 0
    assert rolled_up(organization) == sum(device_seconds(organization).values())


def test_another_view_of_a_call_that_comes_late_leaves_its_time(organization: Organization) -> None:
    runtime = served(1, 0, 10)
    take(organization, runtime)
    model(organization)
    take(organization, served(1, -0.25, 10.5, span_id=b"client..", dialect="otel_genai", vantage=Vantage.CLIENT,
        prefill_ns=None, decode_ns=None, queue_ns=None, device_type="", service_name="shop"))  # fmt: skip
    model(organization)
    [held] = [ns for ns in device_seconds(organization).values() if ns]
    assert held == Decimal(10)
    sums = UsageHour.objects.filter(organization=organization)
    assert sum(row.calls for row in sums) == 1
    assert rolled_up(organization) == sum(device_seconds(organization).values())


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0, 1, 1)])
@pytest.mark.parametrize("is_modelled_between", [False, True])
def test_what_a_runtime_without_id_model_and_prompt_had_is_its_callers_call(
    organization: Organization, order: tuple[int, ...], *, is_modelled_between: bool
) -> None:
    device_price(organization, "H100", "36")
    trace = (7).to_bytes(16)
    asked = served(1, -0.25, 10.5, trace_id=trace, span_id=b"client..", dialect="otel_genai", vantage=Vantage.CLIENT,
        prefill_ns=None, decode_ns=None, queue_ns=None, device_type="", service_name="shop", provider="openai",
        request_model="small", resource_tags=Tags(team="search"))  # fmt: skip
    answered = served(2, 0, 10, trace_id=trace, parent_span_id=b"client..", dialect="tgi", provider="tgi",
        service_name="tgi-0", response_id="", usage=Usage(output_tokens=5), prefill_ns=None,
        decode_ns=10 * SECOND)  # fmt: skip
    for place in order:
        take(organization, (answered, asked)[place])
        if is_modelled_between:
            model(organization)
    model(organization)
    [row] = [row for row in UsageHour.objects.filter(organization=organization) if row.calls]
    assert (row.calls, row.input_tokens, row.output_tokens) == (1, 10, 5)
    assert row.device_ns == 10 * SECOND
    assert (row.offering.request_model, row.source.team_tag) == ("small", "search")
    assert rolled_up(organization) == sum(device_seconds(organization).values())
    hours = Period(HOUR - timedelta(hours=1), HOUR + timedelta(hours=1))
    assert cost.total(organization, hours).cost == Decimal("0.1")


def test_servers_do_not_share_and_neither_do_organizations(organization: Organization) -> None:
    other = OrganizationFactory()
    take(organization, served(1, 0, 10), served(2, 0.5, 9, service_name="vllm-large"))
    take(other, served(1, 0, 10))
    model(organization)
    assert device_seconds(organization) == {"0": Decimal(10), "0.5": Decimal(9)}
    assert device_seconds(other) == {}


def test_what_was_measured_and_what_runs_on_nobody_knows_what_is_left_alone(
    organization: Organization,
) -> None:
    take(
        organization,
        served(1, 0, 10, device_ns=123, allocation_method="measured"),
        served(2, 1, 10, device_type=""),
    )
    assert model(organization) == 0
    assert device_seconds(organization) == {"0": Decimal(123) / SECOND}


def test_an_hour_is_modelled_when_it_has_been_over_for_a_while(organization: Organization) -> None:
    take(organization, served(1, 0, 10))
    assert [hour for _, hour in modelled.due(HOUR + timedelta(minutes=74))] == []
    assert [hour for _, hour in modelled.due(HOUR + timedelta(minutes=75))] == [HOUR]
    assert HourToModel.objects.count() == 1
    assert CapacityHour.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_the_audit_finds_nothing_to_say_about_modelled_time(transactional_db: None) -> None:
    organization = OrganizationFactory()
    take(organization, served(1, 0, 10), served(2, 5, 10))
    model(organization)
    take(organization, served(3, 7, 10))
    model(organization)
    assert rolled_up(organization) == 17
    assert list(differences()) == []


_CALLS = st.lists(
    st.tuples(st.integers(3300, 3900), st.integers(0, 400), st.integers(0, 50)),
    min_size=1, max_size=6, unique_by=lambda call: call[0],
)  # fmt: skip


def forget_what_was_rolled_back() -> None:
    partitions.forget_made()
    dimensions.forget_ids()
    profiles.forget()
    spanned.forget()


class Conserved(TestCase):
    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(_CALLS, st.integers(0, 5))
    def test_whatever_comes_when_the_servers_time_is_shared_out_once(
        self, calls: list[tuple[int, int, int]], seed: int
    ) -> None:
        forget_what_was_rolled_back()
        organization = OrganizationFactory()
        views = [
            served(number, at, in_model, queue=queue)
            for number, (at, in_model, queue) in enumerate(calls, 1)
        ]
        random.Random(seed).shuffle(views)
        for view in [*views, *views[:2]]:
            take(organization, view)
            if seed % 2:
                model(organization)
        model(organization)
        seconds = {
            second
            for at, in_model, queue in calls
            for second in range(at + queue, at + queue + in_model)
        }
        assert sum(device_seconds(organization).values()) == len(seconds)
        assert rolled_up(organization) == sum(device_seconds(organization).values())


def watched(
    organization: Organization, device_id: str, busy: float, *, hours: float = 1, begun: float = 0
) -> None:
    """What an agent tells of a GPU that it watched from some seconds after the hour began on."""
    start_ns = START_NS + int(begun * SECOND)
    time_ns = start_ns + int(hours * 3600 * SECOND)
    busy_ns = int(busy * SECOND)
    told = {"busy": busy_ns, "idle": time_ns - start_ns - busy_ns}
    times = [
        DeviceTime("costwatch-devices", "", device_id, "H100", state, start_ns, time_ns, ns)
        for state, ns in told.items()
    ]
    ingest.take(ingest_key(organization), Decoded(device_times=times))


def capacity_of(organization: Organization, device_id: str) -> tuple[float, float, float]:
    """Attributed, unattributed and idle seconds of a device in the hour."""
    row = CapacityHour.objects.get(organization=organization, hour=HOUR, device_id=device_id)
    return row.attributed_ns / SECOND, row.unattributed_ns / SECOND, row.idle_ns / SECOND


def test_what_a_watched_gpu_was_busy_with_is_what_its_calls_share(
    organization: Organization,
) -> None:
    take(organization, served(1, 0, 10, device_ids="GPU-1"), served(2, 20, 30, device_ids="GPU-1"))
    watched(organization, "GPU-1", busy=20)
    model(organization)
    assert device_seconds(organization) == {"0": Decimal(5), "20": Decimal(15)}
    assert capacity_of(organization, "GPU-1") == (20, 0, 3580)


def test_a_server_is_charged_each_of_its_gpus_and_never_for_more_than_its_time_at_work(
    organization: Organization,
) -> None:
    take(organization, served(1, 0, 100, device_ids="GPU-1 GPU-2 GPU-3"))
    watched(organization, "GPU-1", busy=60)
    watched(organization, "GPU-2", busy=500)  # somebody else was there, too
    model(organization)
    assert device_seconds(organization) == {"0": Decimal(60 + 100 + 100)}
    assert capacity_of(organization, "GPU-1") == (60, 0, 3540)
    assert capacity_of(organization, "GPU-2") == (100, 400, 3100)
    assert not CapacityHour.objects.filter(device_id="GPU-3").exists()


def test_two_servers_on_one_gpu_share_what_it_was_busy_with(organization: Organization) -> None:
    small, large = {"device_ids": "GPU-1"}, {"device_ids": "GPU-1", "service_name": "vllm-large"}
    take(organization, served(1, 0, 30, **small), served(2, 0, 90, **large))
    watched(organization, "GPU-1", busy=80)
    model(organization)
    held = Entry.objects.filter(organization=organization, sign=1).exclude(device_ns=None)
    assert sorted(entry.device_ns for entry in held if entry.device_ns) == [
        20 * SECOND,
        60 * SECOND,
    ]
    assert capacity_of(organization, "GPU-1") == (80, 0, 3520)


def test_a_gpu_that_was_not_watched_all_the_hour_counts_by_its_servers_time_at_work(
    organization: Organization,
) -> None:
    take(organization, served(1, 0, 10, device_ids="GPU-1"))
    watched(organization, "GPU-1", busy=4, hours=0.5)
    model(organization)
    assert device_seconds(organization) == {"0": Decimal(10)}


def test_readings_that_come_late_change_what_calls_had(organization: Organization) -> None:
    take(organization, served(1, 0, 10, device_ids="GPU-1"))
    model(organization)
    watched(organization, "GPU-1", busy=8)
    assert model(organization) == 1
    assert device_seconds(organization) == {"0": Decimal(8)}
    assert rolled_up(organization) == 8


def test_a_gpu_that_was_idle_at_last_is_known_for_the_whole_hour_then(
    organization: Organization,
) -> None:
    take(organization, served(1, 0, 10, device_ids="GPU-1"))
    watched(organization, "GPU-1", busy=8, hours=0.25)
    assert model(organization) == 1
    assert device_seconds(organization) == {"0": Decimal(10)}, "nobody knows of the rest"
    watched(organization, "GPU-1", busy=8)
    assert model(organization) == 1
    assert device_seconds(organization) == {"0": Decimal(8)}


_WATCHED = st.lists(
    st.tuples(st.integers(0, 3400), st.integers(1, 900), st.sampled_from(["a", "b"])),
    min_size=1, max_size=6, unique_by=lambda call: call[0],
)  # fmt: skip


class ConservedPerDevice(TestCase):
    @settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(_WATCHED, st.lists(st.integers(0, 3600), min_size=2, max_size=2), st.booleans())
    def test_what_calls_had_of_watched_gpus_is_what_the_gpus_say_was_attributed(
        self, calls: list[tuple[int, int, str]], busy: list[int], is_watched_first: bool
    ) -> None:
        forget_what_was_rolled_back()
        organization = OrganizationFactory()
        views = [
            served(number, at, in_model, service_name=name, device_ids="GPU-1;GPU-2")
            for number, (at, in_model, name) in enumerate(calls, 1)
        ]
        if not is_watched_first:
            take(organization, *views)
            model(organization)
        for device_id, seconds in zip(("GPU-1", "GPU-2"), busy, strict=True):
            watched(organization, device_id, busy=seconds)
            watched(organization, device_id, busy=seconds // 2, begun=3600)
        if is_watched_first:
            take(organization, *views)
        model(organization)
        rows = CapacityHour.objects.filter(organization=organization)
        has_busy = {(row.hour, row.device_id) for row in rows if row.observed_busy_ns}
        for row in rows:
            assert row.attributed_ns + row.unattributed_ns + row.idle_ns == row.wall_ns
            assert row.wall_ns == 3600 * SECOND
            assert row.attributed_ns <= row.observed_busy_ns
        if len(has_busy) == len(rows):
            attributed = Decimal(sum(row.attributed_ns for row in rows)) / SECOND
            assert sum(device_seconds(organization).values()) == attributed
