"""Invariant 4 between the runtime's clock and the hours that are paid: time is conserved."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Decoded, DeviceTime
from costwatch.accounts.models import IngestKey, Organization
from costwatch.attribution import ingest
from costwatch.attribution.audit import differences
from costwatch.attribution.models import CapacityHour
from tests.factories import NOON, OrganizationFactory, ingest_key, unix_ns

SECOND_NS = 1_000_000_000
BEGUN_NS = unix_ns(NOON)


def reading(elapsed_ns: int, attributed_ns: int, unattributed_ns: int) -> list[DeviceTime]:
    """A device's clock so long after it began; what is not busy is idle."""
    time_ns = BEGUN_NS + elapsed_ns
    states = {
        "attributed": attributed_ns,
        "unattributed": unattributed_ns,
        "idle": time_ns - BEGUN_NS - attributed_ns - unattributed_ns,
    }
    return [
        DeviceTime("runtime", "process-1", "cpu-0", "cpu", state, BEGUN_NS, time_ns, value_ns)
        for state, value_ns in states.items()
    ]


def send(key: IngestKey, times: list[DeviceTime]) -> None:
    ingest.take(key, Decoded(device_times=times))


def totals(organization_id: int) -> tuple[int, int, int, int]:
    rows = CapacityHour.objects.filter(organization_id=organization_id)
    names = ("wall_ns", "attributed_ns", "unattributed_ns", "idle_ns")
    wall, attributed, unattributed, idle = (sum(getattr(r, n) for r in rows) for n in names)
    return wall, attributed, unattributed, idle


@pytest.fixture
def key(organization: Organization) -> IngestKey:
    return ingest_key(organization)


def test_a_reading_sent_again_or_overtaken_adds_nothing(key: IngestKey) -> None:
    send(key, reading(20 * SECOND_NS, 7 * SECOND_NS, SECOND_NS))
    send(key, reading(10 * SECOND_NS, 3 * SECOND_NS, SECOND_NS))
    send(key, reading(20 * SECOND_NS, 7 * SECOND_NS, SECOND_NS))
    assert totals(key.organization_id) == tuple(n * SECOND_NS for n in (20, 7, 1, 12))


def test_time_over_a_full_hour_is_split_where_the_hour_ends(key: IngestKey) -> None:
    send(key, reading(3600 * SECOND_NS, 1800 * SECOND_NS, 0))
    hours = list(
        CapacityHour.objects.order_by("hour").values_list("hour", "wall_ns", "attributed_ns")
    )
    first = NOON.replace(minute=0)
    assert hours == [
        (first, 1800 * SECOND_NS, 900 * SECOND_NS),
        (first + timedelta(hours=1), 1800 * SECOND_NS, 900 * SECOND_NS),
    ]


def test_a_state_that_is_missing_waits_for_a_whole_reading(key: IngestKey) -> None:
    send(key, reading(10 * SECOND_NS, 1, 2)[:2])
    assert totals(key.organization_id) == (0, 0, 0, 0)


def test_states_that_do_not_sum_to_the_time_are_refused(key: IngestKey) -> None:
    *fine, last = reading(10 * SECOND_NS, 0, 0)
    taken = ingest.take(key, Decoded(device_times=[*fine, replace(last, value_ns=10**18)]))
    assert [refusal.count for refusal in taken.refusals] == [3]
    assert totals(key.organization_id) == (0, 0, 0, 0)


def test_a_clock_that_runs_backwards_is_refused_and_leaves_the_sums_alone(key: IngestKey) -> None:
    send(key, reading(50 * SECOND_NS, 20 * SECOND_NS, 0))
    backwards = reading(100 * SECOND_NS, 10 * SECOND_NS, 0)
    assert [r.count for r in ingest.take(key, Decoded(device_times=backwards)).refusals] == [3]
    send(key, reading(110 * SECOND_NS, 30 * SECOND_NS, 0))
    assert totals(key.organization_id) == tuple(n * SECOND_NS for n in (110, 30, 0, 80))


@pytest.mark.parametrize(("start", "end"), [(1, BEGUN_NS), (BEGUN_NS, 2**63 - 1)])
def test_time_of_the_future_or_before_what_is_kept_is_refused(
    key: IngestKey, start: int, end: int
) -> None:
    states = {"attributed": 0, "unattributed": 0, "idle": end - start}
    times = [
        DeviceTime("runtime", "process-1", "cpu-0", "cpu", state, start, end, value_ns)
        for state, value_ns in states.items()
    ]
    taken = ingest.take(key, Decoded(device_times=times))
    assert [refusal.count for refusal in taken.refusals] == [3]
    assert totals(key.organization_id) == (0, 0, 0, 0)


def clock(name: str, begun_s: int, elapsed_s: int, attributed_s: int) -> list[DeviceTime]:
    """One runtime's clock of the GPU that it shares with others."""
    start, end = BEGUN_NS + begun_s * SECOND_NS, BEGUN_NS + (begun_s + elapsed_s) * SECOND_NS
    states = {"attributed": attributed_s, "unattributed": 0, "idle": elapsed_s - attributed_s}
    return [
        DeviceTime("runtime", name, "GPU-1", "H100", state, start, end, value_s * SECOND_NS)
        for state, value_s in states.items()
    ]


def test_an_hour_of_a_device_that_two_runtimes_share_is_one_hour(key: IngestKey) -> None:
    send(key, clock("a", 0, 1800, 600))
    send(key, clock("b", 600, 1200, 900))
    assert totals(key.organization_id) == tuple(n * SECOND_NS for n in (1800, 1500, 0, 300))


def test_runtimes_that_claim_more_than_passed_leave_no_idle_time_and_keep_what_they_claim(
    key: IngestKey,
) -> None:
    send(key, clock("a", 0, 1000, 800))
    send(key, clock("b", 0, 1000, 700))
    assert totals(key.organization_id) == tuple(n * SECOND_NS for n in (1500, 1500, 0, 0))


def test_the_audit_recounts_how_often_a_shared_device_was_told_of(transactional_db: None) -> None:
    key = ingest_key(OrganizationFactory())
    for name, begun_s in (("a", 0), ("b", 600), ("c", 1200), ("later", 9000)):
        send(key, clock(name, begun_s, 3000, 600))
    assert not list(differences())
    hour = CapacityHour.objects.filter(overlap_ns__gt=0)[0]
    CapacityHour.objects.filter(organization=key.organization, hour=hour.hour).update(
        overlap_ns=hour.overlap_ns - 1, idle_ns=hour.idle_ns + 1, wall_ns=hour.wall_ns + 1
    )
    assert [each.name for each in differences()] == ["device GPU-1 overlap_ns"]


class Conserved(TestCase):
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(
            st.tuples(
                st.integers(1, 9000 * SECOND_NS),
                st.integers(0, 10**12),
                st.integers(0, 10**12),
            ),
            min_size=1,
            max_size=6,
        ),
        st.randoms(use_true_random=False),
    )
    def test_the_hours_hold_every_nanosecond_of_the_last_reading(
        self, steps: list[tuple[int, int, int]], chance: object
    ) -> None:
        key = ingest_key(OrganizationFactory())
        time_ns = attributed = unattributed = 0
        readings = []
        for length_ns, busy, other in steps:
            time_ns += length_ns
            attributed += min(busy, length_ns)
            unattributed += min(other, length_ns - min(busy, length_ns))
            readings.append(reading(time_ns, attributed, unattributed))
        last = readings[-1]
        chance.shuffle(readings)  # type: ignore[attr-defined]
        for one in readings:
            send(key, one)
        wall = last[0].time_unix_ns - BEGUN_NS
        values = [time.value_ns for time in last]
        assert totals(key.organization_id) == (wall, *values)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 8000),  # when a runtime begins, in seconds
                st.lists(
                    st.tuples(st.integers(1, 3000), st.integers(0, 400)), min_size=1, max_size=3
                ),
            ),
            min_size=1,
            max_size=4,
        ),
        st.randoms(use_true_random=False),
    )
    def test_a_shared_device_has_as_many_hours_as_passed_in_whatever_order_they_are_told(
        self, runtimes: list[tuple[int, list[tuple[int, int]]]], chance: object
    ) -> None:
        key = ingest_key(OrganizationFactory())
        readings, seconds, attributed = [], set[int](), 0
        for place, (begun, steps) in enumerate(runtimes):
            elapsed = busy = 0
            for length, busy_of_it in steps:
                elapsed += length
                busy += min(busy_of_it, length)
                readings.append(clock(f"runtime {place}", begun, elapsed, busy))
            seconds |= set(range(begun, begun + elapsed))
            attributed += busy
        chance.shuffle(readings)  # type: ignore[attr-defined]
        for one in readings:
            send(key, one)
        hours = CapacityHour.objects.filter(organization=key.organization)
        overlap = sum(hour.overlap_ns for hour in hours)
        told = sum(hour.attributed_ns + hour.told_idle_ns for hour in hours)
        assert told - overlap == len(seconds) * SECOND_NS
        assert sum(hour.attributed_ns for hour in hours) == attributed * SECOND_NS
        assert all(hour.idle_ns == max(hour.told_idle_ns - hour.overlap_ns, 0) for hour in hours)
