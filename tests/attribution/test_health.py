"""How late telemetry was, by key."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine

from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution.ingest import take
from costwatch.attribution.models import LagHour
from costwatch.attribution.queries import Lag, Wait, lags
from costwatch.attribution.rollups import add_batches
from costwatch.domain.periods import Period, day_of
from tests.factories import NOON, body, ingest_key, observation

DAY = day_of(NOON, "UTC")
SECOND_NS = 10**9


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def sent_after(key: IngestKey, *seconds: float) -> None:
    """One body at noon with calls that ended so long before."""
    calls = [
        observation(
            at=NOON - timedelta(seconds=one) - timedelta(seconds=2), duration_ns=2 * SECOND_NS
        )
        for one in seconds
    ]
    with time_machine.travel(NOON, tick=False):
        take(key, body(*calls))


def test_lag_is_from_the_end_of_the_call_that_waited_longest_and_on_to_the_rollups(
    organization: Organization, key: IngestKey
) -> None:
    sent_after(key, 1, 5)
    sent_after(key, 15)
    with time_machine.travel(NOON + timedelta(seconds=3), tick=False):
        add_batches(organization.pk)
    assert lags(organization, DAY) == {key.pk: Lag(Wait(2, 10.0, 15.0), Wait(2, 3.0, 3.0))}


def test_what_is_sent_again_is_not_late(organization: Organization, key: IngestKey) -> None:
    call = observation(at=NOON - timedelta(seconds=2), duration_ns=SECOND_NS)
    for wait in (timedelta(0), timedelta(hours=5)):
        with time_machine.travel(NOON + wait, tick=False):
            take(key, body(call))
            add_batches(organization.pk)
    assert lags(organization, DAY) == {key.pk: Lag(Wait(1, 1.0, 1.0), Wait(1, 0.0, 0.0))}


def test_a_sender_whose_clock_is_ahead_is_not_early(
    organization: Organization, key: IngestKey
) -> None:
    sent_after(key, -60)
    with time_machine.travel(NOON - timedelta(seconds=5), tick=False):
        add_batches(organization.pk)
    assert lags(organization, DAY) == {key.pk: Lag(Wait(1, 0.0, 0.0), Wait(1, 0.0, 0.0))}


def test_lag_is_kept_by_key_and_hour_of_arrival(organization: Organization, key: IngestKey) -> None:
    other = ingest_key(organization)
    sent_after(key, 7200)
    sent_after(other, 1)
    with time_machine.travel(NOON, tick=False):
        add_batches(organization.pk)
    assert {row.hour for row in LagHour.objects.all()} == {NOON.replace(minute=0)}
    hour = Period(NOON.replace(minute=0), NOON.replace(minute=0) + timedelta(hours=1))
    assert {
        pk: lag.arrival.longest_seconds
        for pk, lag in lags(organization, hour).items()
        if lag.arrival
    } == {
        key.pk: 7200.0,
        other.pk: 1.0,
    }
    before = Period(hour.start - timedelta(hours=1), hour.start)
    assert lags(organization, before) == {}
