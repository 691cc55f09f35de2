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

from collectors.observation import Observation, Provenance, Usage, Vantage
from costwatch.accounts.models import Organization
from costwatch.attribution import dimensions, modelled, partitions, profiles, spanned
from costwatch.attribution.audit import differences
from costwatch.attribution.models import CapacityHour, Entry, HourToModel, UsageHour
from costwatch.attribution.rollups import add_batches
from costwatch.domain.periods import Period
from costwatch.pricing import cost
from tests.factories import NOON, OrganizationFactory, observation
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
