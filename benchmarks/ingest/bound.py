"""What two cores can do at most: two processes that only decode, then COPY through a staging table.

Each parses protobuf with the C parser, walks the attributes for the wanted ones into 20 columns, and copies them into a
temporary table from which they go into a keyed one, ON CONFLICT DO NOTHING. No HTTP, no keys, no merging, no prices, no sums.
"""

import multiprocessing
import sys
import time
from collections.abc import Sequence

import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.ingest.bodies import SPANS, body

PROCESSES = 2
_WANTED = (
    "gen_ai.operation.name",
    "gen_ai.system",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.response.id",
    "server.address",
    "costwatch.team",
    "costwatch.feature",
    "user.id",
    "session.id",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
)
_COLUMNS = (
    "trace_id bytea, span_id bytea, parent_id bytea, begun bigint, ended bigint, service text, scope text, "
    + ", ".join(
        f"c{place} {'bigint' if 'usage' in name else 'text'}" for place, name in enumerate(_WANTED)
    )
)


def bound(database_url: str, bodies: int) -> float:
    """Rows per second of two processes together."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bound")
        connection.execute(f"CREATE TABLE bound ({_COLUMNS}, PRIMARY KEY (trace_id, span_id))")
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(PROCESSES + 1), context.Barrier(PROCESSES + 1)
    share = bodies // PROCESSES
    workers = [
        context.Process(target=_work, args=(database_url, share, ready, go))
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    go.wait()
    begun = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - begun
    if any(worker.exitcode for worker in workers):
        sys.exit("a process of the bound failed")
    return share * PROCESSES * SPANS / seconds


def _work(database_url: str, bodies: int, ready: object, go: object) -> None:
    made = [body() for _ in range(bodies)]
    with psycopg.connect(database_url) as connection:
        connection.execute(f"CREATE TEMP TABLE staging ({_COLUMNS}) ON COMMIT DELETE ROWS")
        connection.commit()
        ready.wait()  # type: ignore[attr-defined]
        go.wait()  # type: ignore[attr-defined]
        for each in made:
            _copy(connection, _rows(each))


def _copy(connection: psycopg.Connection, rows: Sequence[Sequence[object]]) -> None:
    with connection.cursor() as cursor:
        with cursor.copy("COPY staging FROM STDIN") as copy:
            copy.write("".join(_line(row) for row in rows))
        cursor.execute("INSERT INTO bound SELECT * FROM staging ON CONFLICT DO NOTHING")
    connection.commit()


def _line(row: Sequence[object]) -> str:
    return ("%s\t" * 19 + "%s\n") % tuple(row)


def _rows(each: bytes) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for of_resource in ExportTraceServiceRequest.FromString(each).resource_spans:
        service = of_resource.resource.attributes[0].value.string_value
        for of_scope in of_resource.scope_spans:
            scope = of_scope.scope.name
            for span in of_scope.spans:
                found = {}
                for pair in span.attributes:
                    if pair.key in _KINDS:
                        value = pair.value
                        found[pair.key] = value.string_value or value.int_value
                rows.append(
                    (
                        "\\\\x" + span.trace_id.hex(),
                        "\\\\x" + span.span_id.hex(),
                        "\\\\x" + span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        service,
                        scope,
                        *[found.get(name, "\\N") for name in _WANTED],
                    )
                )
    return rows


_KINDS = frozenset(_WANTED)
