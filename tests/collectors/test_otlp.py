"""Bodies as they arrive: whole, broken, bombs, in both encodings."""

import contextlib
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from collectors import semconv
from collectors.observation import DeviceTime, Refusal
from collectors.otlp import (
    BodyTooLarge,
    MalformedTelemetry,
    UnsupportedMedia,
    decode_metrics,
    decode_traces,
    decompress,
)
from tests.collectors.bodies import (
    NOON_NS,
    PROTOBUF,
    decoded,
    key_values,
    request,
    span,
    span_id,
)

JSON = "application/json"
CALL = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 10}


def otlp_json(*spans: Any) -> dict[str, Any]:
    """A body as JavaScript's exporter writes it: ids in hex, 64-bit numbers as text, enums as numbers."""
    body = json_format.MessageToDict(
        request(*spans, scope="@opentelemetry/instrumentation-openai"), use_integers_for_enums=True
    )
    for sent, built in zip(body["resourceSpans"][0]["scopeSpans"][0]["spans"], spans, strict=True):
        sent["traceId"], sent["spanId"] = built.trace_id.hex(), built.span_id.hex()
        if built.parent_span_id:
            sent["parentSpanId"] = built.parent_span_id.hex()
    return body


def test_json_says_the_same_as_protobuf() -> None:
    spans = span(CALL, number=1), span({**CALL, "gen_ai.request.stream": True}, number=2, parent=1)
    body = json.dumps(otlp_json(*spans)).encode()
    from_json = decode_traces(body, content_type="application/json; charset=utf-8")
    assert from_json == decoded(*spans, scope="@opentelemetry/instrumentation-openai")
    assert len(from_json.observations) == 2


def test_fields_that_a_newer_sender_adds_are_ignored() -> None:
    body = otlp_json(span(CALL))
    body["resourceSpans"][0]["novelty"] = {"traceId": "zz"}
    body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["novelty"] = [1]
    found = decode_traces(json.dumps(body).encode(), content_type=JSON)
    assert len(found.observations) == 1


def test_an_empty_request_holds_nothing() -> None:
    for body, content_type in ((b"", PROTOBUF), (b"{}", JSON)):
        found = decode_traces(body, content_type=content_type)
        assert (found.items, found.links, found.observations) == (0, [], [])


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b"\xff\xff\xff", PROTOBUF, "the body is no protobuf ExportTraceServiceRequest"),
        (b"{", JSON, "the body is no JSON"),
        (b"[" * 100_000, JSON, "the body is no JSON"),
        (b"[]", JSON, "the body is a JSON list: expected an object"),
        (b'{"resourceSpans": 7}', JSON, "the body is no OTLP/JSON"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": {}}]}]}]}', JSON, "OTLP/JSON"),
    ],
)
def test_a_malformed_body_is_refused_with_what_is_wrong(
    body: bytes, content_type: str, says: str
) -> None:
    with pytest.raises(MalformedTelemetry, match=says):
        decode_traces(body, content_type=content_type)


def test_an_unknown_content_type_is_refused_with_what_is_wanted() -> None:
    with pytest.raises(UnsupportedMedia, match="'text/plain': expected application/x-protobuf or"):
        decode_traces(b"", content_type="text/plain")


@given(st.binary(max_size=300))
def test_whatever_bytes_arrive_are_read_or_refused(body: bytes) -> None:
    for decode in (decode_traces, decode_metrics):
        with contextlib.suppress(MalformedTelemetry):
            decode(body, content_type=PROTOBUF)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "resourceSpans",
                    "scopeSpans",
                    "spans",
                    "traceId",
                    "spanId",
                    "attributes",
                    "key",
                    "value",
                    "intValue",
                    "startTimeUnixNano",
                    "status",
                    "code",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_whatever_json_arrives_is_read_or_refused(value: Any) -> None:
    with contextlib.suppress(MalformedTelemetry):
        decode_traces(json.dumps({"resourceSpans": value}).encode(), content_type=JSON)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"trace_id": b"short"}, "span without a trace id (16 bytes, not all zero)"),
        ({"trace_id": bytes(16)}, "span without a trace id (16 bytes, not all zero)"),
        ({"span_id": bytes(8)}, "span without a span id (8 bytes, not all zero)"),
        ({"span_id": b""}, "span without a span id (8 bytes, not all zero)"),
        ({"parent_span_id": b"123"}, "span with a parent span id that is not 8 bytes"),
        ({"start_time_unix_nano": 0}, "span without a start time"),
        ({"end_time_unix_nano": NOON_NS - 1}, "span that ends before it starts"),
        ({"end_time_unix_nano": 2**63}, "span that ends after the year 2262"),
    ],
)
def test_a_broken_span_is_refused_alone(broken: dict[str, Any], says: str) -> None:
    found = decoded(span(CALL, number=1), span(CALL, number=2, **broken), span(CALL, number=3))
    assert found.refusals == [Refusal(says, 1)]
    assert [link.span_id for link in found.links] == [span_id(1), span_id(3)]
    assert len(found.observations) == 2
    assert found.items == 3


def test_refusals_of_one_kind_are_counted_together() -> None:
    found = decoded(*(span(CALL, number=n, trace_id=b"") for n in range(1, 4)), span(CALL))
    assert found.refusals == [Refusal("span without a trace id (16 bytes, not all zero)", 3)]


def test_an_id_that_is_no_hex_costs_only_its_span() -> None:
    body = otlp_json(span(CALL, number=1), span(CALL, number=2))
    body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"] = "not hex!"
    found = decode_traces(json.dumps(body).encode(), content_type=JSON)
    assert [link.span_id for link in found.links] == [span_id(2)]
    assert [refusal.count for refusal in found.refusals] == [1]


def test_a_parent_of_zeros_is_no_parent() -> None:
    [link] = decoded(span(parent_span_id=bytes(8))).links
    assert link.parent_span_id is None


def test_a_span_about_nothing_of_ours_gives_only_its_link() -> None:
    found = decoded(span({"http.route": "/chat"}))
    assert (len(found.links), found.observations) == (1, [])


@given(st.binary(max_size=5000), st.sampled_from(["gzip", "GZIP ", "deflate", "identity", ""]))
def test_a_compressed_body_comes_out_as_it_went_in(body: bytes, encoding: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
    pack = packers.get(encoding.strip().lower(), bytes)
    assert decompress(pack(body), encoding, len(body)) == body


def test_a_body_over_the_limit_is_refused_however_it_is_packed() -> None:
    for encoding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)):
        with pytest.raises(BodyTooLarge, match="larger than 999 bytes uncompressed"):
            decompress(pack(bytes(1000)), encoding, 999)


def test_a_bomb_is_not_inflated_beyond_the_limit() -> None:
    layer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(layer.compress(bytes(1 << 20)) for _ in range(200)) + layer.flush()
    assert len(bomb) < 300_000
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decompress(bomb, "gzip", 1 << 20)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10 << 20


def test_members_one_after_the_other_are_one_body() -> None:
    assert decompress(gzip.compress(b"one ") + gzip.compress(b"two"), "gzip", 7) == b"one two"
    with pytest.raises(BodyTooLarge):
        decompress(gzip.compress(b"one ") + gzip.compress(b"two!"), "gzip", 7)
    with pytest.raises(MalformedTelemetry, match="more than 64 members"):
        decompress(gzip.compress(b"") * 65, "gzip", 7)


@pytest.mark.parametrize("packed", [b"no gzip", b"", gzip.compress(b"cut off")[:-9]])
def test_what_is_not_gzip_is_malformed(packed: bytes) -> None:
    with pytest.raises(MalformedTelemetry):
        decompress(packed, "gzip", 1000)


def test_an_unknown_encoding_is_refused_with_what_is_wanted() -> None:
    with pytest.raises(UnsupportedMedia, match="Content-Encoding 'br': expected gzip"):
        decompress(b"", "br", 10)


def device_time_body(*, temporality: int = 2, unit: str = "ns", **fields: Any) -> bytes:
    point = NumberDataPoint(
        start_time_unix_nano=NOON_NS, time_unix_nano=NOON_NS + 10**9, as_int=600_000_000
    )
    point.attributes.extend(
        key_values({semconv.DEVICE_STATE: "idle", semconv.HW_ID: "gpu-0", semconv.HW_TYPE: "gpu"})
    )
    point.MergeFrom(NumberDataPoint(**fields))
    body = ExportMetricsServiceRequest()
    resource_metrics = body.resource_metrics.add()
    resource_metrics.resource.attributes.extend(
        key_values({semconv.SERVICE_NAME: "runtime", semconv.SERVICE_INSTANCE_ID: "r-1"})
    )
    metric = resource_metrics.scope_metrics.add().metrics.add(name=semconv.DEVICE_TIME, unit=unit)
    metric.sum.aggregation_temporality = temporality  # type: ignore[assignment]
    metric.sum.data_points.append(point)
    other = resource_metrics.scope_metrics[0].metrics.add(name="gen_ai.client.token.usage")
    other.histogram.data_points.add(count=1)
    return body.SerializeToString()


def test_a_devices_time_is_read_and_other_metrics_are_only_counted() -> None:
    found = decode_metrics(device_time_body(), content_type=PROTOBUF)
    assert found.device_times == [
        DeviceTime(
            service_name="runtime",
            instance_id="r-1",
            device_id="gpu-0",
            device_type="gpu",
            state="idle",
            start_unix_ns=NOON_NS,
            time_unix_ns=NOON_NS + 10**9,
            value_ns=600_000_000,
        )
    ]
    assert (found.items, found.refusals) == (2, [])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (device_time_body(temporality=1), "no cumulative sum"),
        (device_time_body(unit="s"), "in a unit other than ns"),
        (device_time_body(as_int=-1), "below zero"),
        (device_time_body(time_unix_nano=1), "a start after its time"),
        (
            device_time_body(attributes=key_values({semconv.DEVICE_STATE: "bored"})),
            "of attributed, unattributed, idle",
        ),
    ],
)
def test_device_time_that_cannot_be_added_up_is_refused(body: bytes, says: str) -> None:
    found = decode_metrics(body, content_type=PROTOBUF)
    assert found.device_times == []
    [refusal] = found.refusals
    assert says in refusal.reason
    assert refusal.count == 1
