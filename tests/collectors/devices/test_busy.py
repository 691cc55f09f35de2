"""How long a GPU was busy, from readings of its utilization, as costwatch reads it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource

from collectors.devices import DeviceSample
from collectors.devices.busy import BusyTime, BusyTimes
from collectors.devices.metrics import encode
from collectors.devices.samples import Reading
from collectors.metrics import decode_metrics
from collectors.otlp import PROTOBUF

SECOND = 1_000_000_000
BEGUN = 1_700_000_000 * SECOND
GPU = DeviceSample(device_id="GPU-1", device_type="gpu", name="H100", utilization=0.5)


def after(*readings: tuple[float, float | None]) -> list[BusyTime]:
    """What is known after readings (seconds, utilization), ten of which are usual a hundred seconds."""
    times, known = BusyTimes(10), list[BusyTime]()
    for seconds, utilization in readings:
        sample = replace(GPU, utilization=utilization)
        known = times.add([sample], BEGUN + int(seconds * SECOND))
    return known


def test_a_reading_holds_since_the_one_before() -> None:
    [one] = after((0, 1.0), (10, 0.5), (20, 1.0))
    assert (one.busy_ns, one.idle_ns) == (15 * SECOND, 5 * SECOND)


def test_what_was_in_a_long_gap_nobody_knows_and_the_count_begins_anew() -> None:
    [one] = after((0, 1.0), (10, 1.0), (100, 1.0), (110, 0.2))
    assert (one.started_unix_ns, one.busy_ns) == (BEGUN + 100 * SECOND, 2 * SECOND)


def test_a_clock_that_was_set_back_begins_anew() -> None:
    [one] = after((100, 1.0), (110, 1.0), (50, 1.0))
    assert (one.started_unix_ns, one.busy_ns, one.idle_ns) == (BEGUN + 50 * SECOND, 0, 0)


def test_a_device_that_is_not_read_has_no_time() -> None:
    assert after((0, 1.0), (10, None)) == []
    times = BusyTimes(10)
    assert times.add([replace(GPU, device_type="cpu")], BEGUN) == []


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), min_size=1))
def test_busy_and_idle_are_the_time_that_passed(steps: list[tuple[float, float]]) -> None:
    times, now_ns, busy_ns = BusyTimes(10), BEGUN, 0
    times.add([GPU], BEGUN)
    for seconds, utilization in steps:
        now_ns += int(seconds * SECOND)
        [one] = times.add([replace(GPU, utilization=utilization)], now_ns)
        assert one.busy_ns + one.idle_ns == now_ns - BEGUN
        assert one.busy_ns >= busy_ns
        assert one.idle_ns >= 0
        busy_ns = one.busy_ns


def test_costwatch_reads_what_the_agent_sends() -> None:
    busy = after((0, 1.0), (10, 0.25))
    data = encode(Reading((GPU,)), Resource({"service.name": "d"}), BEGUN, BEGUN + SECOND, busy)
    body = encode_metrics(data).SerializeToString()
    decoded = decode_metrics(body, content_type=PROTOBUF)
    assert not decoded.refusals
    told = {(t.device_id, t.device_type, t.state): t.value_ns for t in decoded.device_times}
    assert told == {
        ("GPU-1", "H100", "busy"): 2_500_000_000,
        ("GPU-1", "H100", "idle"): 7_500_000_000,
    }
