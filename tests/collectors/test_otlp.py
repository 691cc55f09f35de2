"""Bodies as they arrive: whole, broken, bombs, in both encodings."""

import contextlib
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from backports import zstd
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from collectors.dialects import prototypes
from collectors.metrics import decode_metrics
from collectors.observation import Refusal
from collectors.otlp import (
    MAX_ATTRIBUTES,
    BodyTooLarge,
    LogRecords,
    MalformedTelemetry,
    UnsupportedMedia,
    count_logs,
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


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
    "": bytes,
}


@given(
    st.binary(max_size=5000),
    st.sampled_from(["gzip", "GZIP ", "deflate", "zstd", "Zstd", "identity", ""]),
)
def test_a_compressed_body_comes_out_as_it_went_in(body: bytes, encoding: str) -> None:
    pack = PACKERS.get(encoding.strip().lower(), bytes)
    assert decompress(pack(body), encoding, len(body)) == body


def test_a_body_over_the_limit_is_refused_however_it_is_packed() -> None:
    for encoding, pack in PACKERS.items():
        with pytest.raises(BodyTooLarge, match="larger than 999 bytes uncompressed"):
            decompress(pack(bytes(1000)), encoding, 999)


@pytest.mark.parametrize(
    ("encoding", "layer"),
    [("gzip", zlib.compressobj(9, wbits=31)), ("zstd", zstd.ZstdCompressor(level=19))],
)
def test_a_bomb_is_not_inflated_beyond_the_limit(encoding: str, layer: Any) -> None:
    bomb = b"".join(layer.compress(bytes(1 << 20)) for _ in range(200)) + layer.flush()
    assert len(bomb) < 300_000
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decompress(bomb, encoding, 1 << 20)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10 << 20


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_one_after_the_other_are_one_body(encoding: str) -> None:
    pack = PACKERS[encoding]
    assert decompress(pack(b"one ") + pack(b"two"), encoding, 7) == b"one two"
    with pytest.raises(BodyTooLarge):
        decompress(pack(b"one ") + pack(b"two!"), encoding, 7)
    with pytest.raises(MalformedTelemetry, match="more than 64 members"):
        decompress(pack(b"") * 65, encoding, 7)


def test_a_frame_of_zstd_that_holds_nothing_of_ours_is_skipped() -> None:
    skippable = bytes.fromhex("502a4d18") + (3).to_bytes(4, "little") + b"etc"
    assert decompress(skippable + zstd.compress(b"body"), "zstd", 4) == b"body"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("spoil", [lambda _: b"none", lambda _: b"", lambda packed: packed[:-5]])
def test_what_is_not_of_its_encoding_is_malformed(
    encoding: str, spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(MalformedTelemetry):
        decompress(spoil(PACKERS[encoding](b"cut off somewhere")), encoding, 1000)


def test_an_unknown_encoding_is_refused_with_what_is_wanted() -> None:
    with pytest.raises(
        UnsupportedMedia, match="Content-Encoding 'br': expected gzip, deflate, zstd"
    ):
        decompress(b"", "br", 10)


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf with a length, as no library of ours would write it so deep."""
    size = bytes([len(content) & 127 | 128, len(content) >> 7 & 127 | 128, len(content) >> 14])
    return bytes([number << 3 | 2]) + size + content


def test_a_value_that_is_nested_too_deeply_is_left_out_and_the_call_counts() -> None:
    deep, good = span(CALL, number=1), span(CALL, number=2)
    deep.status.code = 2  # of a failed call everything is read
    value = field(1, b"deep")
    for _ in range(200):
        value = field(5, field(1, value))
    deep_bytes = deep.SerializeToString() + field(9, field(1, b"deep") + field(2, value))
    body = field(1, field(2, field(2, deep_bytes) + field(2, good.SerializeToString())))
    found = decode_traces(body, content_type=PROTOBUF)
    assert [seen.span_id for seen in found.observations] == [span_id(1), span_id(2)]
    assert [seen.usage for seen in found.observations] == [found.observations[1].usage] * 2
    assert found.refusals == []


def body_of(*spans: bytes) -> bytes:
    return field(1, field(2, b"".join(field(2, one) for one in spans)))


@pytest.mark.parametrize("fails", [False, True])
def test_half_a_character_in_a_text_loses_no_call_whatever_was_seen_before(fails: bool) -> None:
    whole = span(CALL, number=1)
    whole.status.code = 2 if fails else 0
    [prompt, person] = [
        field(9, one.SerializeToString().replace(b"cafe", b"caf\xc3"))
        for one in key_values({"gen_ai.prompt": "cafe", "user.id": "cafe"})
    ]
    body = body_of(whole.SerializeToString() + prompt + person)
    prototypes.forget()
    for _ in range(3):
        [seen] = decode_traces(body, content_type=PROTOBUF).observations
        assert (seen.usage.input_tokens, seen.tags.user, bool(seen.error_type)) == (10, None, fails)


def test_an_attribute_with_two_names_teaches_nothing_about_the_next_span() -> None:
    [team, other] = key_values({"costwatch.team": "evil", "x": "y"})
    named = b"\x0a\x01x" + team.SerializeToString()
    clean = field(9, other.SerializeToString())
    prototypes.forget()
    for tail in (field(9, named), clean, clean):
        decoded_now = decode_traces(
            body_of(span(CALL).SerializeToString() + tail), content_type=PROTOBUF
        )
    assert decoded_now.observations[0].tags.team is None


def test_a_status_in_pieces_is_one_status_and_teaches_nothing_about_the_next_span() -> None:
    pieces = field(15, bytes([3 << 3, 2])) + field(15, field(2, b"why"))
    prototypes.forget()
    bodies = [span(CALL).SerializeToString() + tail for tail in (pieces, b"", b"")]
    seen = [
        decode_traces(body_of(one), content_type=PROTOBUF).observations[0].error_type
        for one in bodies
    ]
    assert seen == ["error", "", ""]


@pytest.mark.parametrize("depth", [60, 300, 2_000, 100_000])
def test_json_that_is_nested_too_deeply_is_malformed(depth: int) -> None:
    lists = '{"arrayValue":{"values":[' * depth + '{"stringValue":"\\ud83d"}' + "]}}" * depth
    body = otlp_json(span(CALL))
    body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"] = "HERE"
    sent = json.dumps(body).replace('"HERE"', f'[{{"key":"deep","value":{lists}}}]')
    with pytest.raises(MalformedTelemetry):
        decode_traces(sent.encode(), content_type=JSON)


def test_a_span_with_thousands_of_attributes_is_read_and_with_more_refused_alone() -> None:
    many, too_many = span(CALL, number=1), span(CALL, number=2)
    for number in range(MAX_ATTRIBUTES - len(many.attributes)):
        many.attributes.add(key=f"gen_ai.prompt.{number}").value.string_value = "word"
    for number in range(MAX_ATTRIBUTES):
        too_many.attributes.add(key=f"gen_ai.prompt.{number}").value.string_value = "word"
    found = decoded(many, too_many)
    assert [seen.usage.input_tokens for seen in found.observations] == [10]
    assert found.refusals == [Refusal(f"span with more than {MAX_ATTRIBUTES} attributes", 1)]


def test_json_reads_numbers_and_texts_and_enums_it_does_not_know_and_leaves_the_unknown_out() -> (
    None
):
    body = otlp_json(span({**CALL, "gen_ai.request.model": "m"}))
    sent = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    sent |= {"kind": 99, "startTimeUnixNano": NOON_NS, "endTimeUnixNano": str(NOON_NS + 1)}
    sent |= {"flags": 257, "somethingNew": {"deep": [1]}, "status": {"code": 1, "new": None}}
    body["resourceSpans"][0]["schemaUrl"] = "https://example.org"
    body["somethingElse"] = True
    found = decode_traces(json.dumps(body).encode(), content_type=JSON)
    assert [(o.usage.input_tokens, o.end_unix_ns) for o in found.observations] == [
        (10, NOON_NS + 1)
    ]


def log_records(*with_usage: bool) -> ExportLogsServiceRequest:
    message = ExportLogsServiceRequest()
    records = message.resource_logs.add().scope_logs.add().log_records
    for number, repeats in enumerate(with_usage):
        record = records.add(event_name="gen_ai.client.inference.operation.details" * repeats)
        name = "gen_ai.usage.output_tokens" if repeats else "http.route"
        record.attributes.add(key=name).value.int_value = number
    return message


@pytest.mark.parametrize("as_json", [False, True])
def test_log_records_are_counted_by_whether_they_repeat_usage(as_json: bool) -> None:
    sent = log_records(True, False, False, True, False)
    found = (
        count_logs(json_format.MessageToJson(sent).encode(), content_type=JSON)
        if as_json
        else count_logs(sent.SerializeToString(), content_type=PROTOBUF)
    )
    assert found == LogRecords(with_usage=2, others=3)
