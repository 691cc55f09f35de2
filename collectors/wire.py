"""OTLP's messages with spans, attributes and log records left as bytes, to be looked at one by one, or not at all.

Thousands of spans carry the very same attributes. Left as bytes they are recognised without being parsed, and prompts
and answers are never read. The numbers of the fields are OTLP's own (opentelemetry-proto 1.x, trace.proto and logs.proto).
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_FIXED64, _BYTES = _Field.TYPE_FIXED64, _Field.TYPE_BYTES

# message: field, its number, its type (a message's name, or a scalar), whether it is repeated
_MESSAGES: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Span": (
        ("trace_id", 1, _BYTES, False),
        ("span_id", 2, _BYTES, False),
        ("parent_span_id", 4, _BYTES, False),
        ("kind", 6, _Field.TYPE_INT32, False),
        ("start_time_unix_nano", 7, _FIXED64, False),
        ("end_time_unix_nano", 8, _FIXED64, False),
        ("attributes", 9, _BYTES, True),
        ("status", 15, _BYTES, True),  # singular; but who sends it in pieces has them put together
    ),
    "Status": (("code", 3, _Field.TYPE_INT32, False),),
    "ScopeSpans": (("scope", 1, _BYTES, False), ("spans", 2, _BYTES, True)),
    "ResourceSpans": (("resource", 1, _BYTES, False), ("scope_spans", 2, "ScopeSpans", True)),
    "ExportTraceServiceRequest": (("resource_spans", 1, "ResourceSpans", True),),
    "ScopeLogs": (("log_records", 2, _BYTES, True),),
    "ResourceLogs": (("scope_logs", 2, "ScopeLogs", True),),
    "ExportLogsServiceRequest": (("resource_logs", 1, "ResourceLogs", True),),
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="costwatch_wire.proto", package="costwatch.wire", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field,
                    number=number,
                    type=_Field.TYPE_MESSAGE,
                    type_name=f".costwatch.wire.{kind}",
                    label=label,
                )
            else:
                message.field.add(name=field, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"costwatch.wire.{name}"))
        for name in _MESSAGES
    }


_made = _classes()
ExportTraceServiceRequest, Span = _made["ExportTraceServiceRequest"], _made["Span"]
Status = _made["Status"]
ExportLogsServiceRequest = _made["ExportLogsServiceRequest"]
