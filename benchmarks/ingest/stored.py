"""What is stored: its size, the same rows once more with COPY alone, and a past to be added to."""

import time

import psycopg


def copy_rows_per_second(connection: psycopg.Connection, calls: int) -> float:
    """Rows per second of writing the newest ledger rows once more, with COPY and nothing else."""
    connection.execute("CREATE TABLE IF NOT EXISTS bare (LIKE attribution_entry)")
    connection.execute("TRUNCATE bare")
    newest = "SELECT * FROM attribution_entry ORDER BY batch_id DESC LIMIT %s"
    rows = connection.execute(newest, [calls]).fetchall()
    begun = time.perf_counter()
    with connection.cursor().copy("COPY bare FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    return len(rows) / (time.perf_counter() - begun)


def bytes_per_call(connection: psycopg.Connection) -> tuple[float, float]:
    """Of the ledger with its index, and of the spans that it was made from with theirs."""
    calls = connection.execute("SELECT count(*) FROM attribution_entry").fetchone()
    sizes = connection.execute(
        "SELECT relid::regclass::text, pg_total_relation_size(relid) FROM pg_partition_tree('attribution_entry')"
        " UNION ALL"
        " SELECT relid::regclass::text, pg_total_relation_size(relid) FROM pg_partition_tree('attribution_span')"
    ).fetchall()
    assert calls is not None
    by_table = {"attribution_entry": 0, "attribution_span": 0}
    for name, size_bytes in sizes:
        by_table[name.rsplit("_", 1)[0] if name[-1].isdigit() else name] += size_bytes
    return by_table["attribution_entry"] / calls[0], by_table["attribution_span"] / calls[0]


def forget_own(connection: psycopg.Connection) -> None:
    """Drop what the benchmark wrote for itself, so that Postgres does not tidy it up under the next measure."""
    connection.execute("DROP TABLE IF EXISTS bare, bound")
    connection.execute("CHECKPOINT")


def prefill(connection: psycopg.Connection, calls: int) -> None:
    """Let the ledger hold so many calls: copies of those that are in it, each with an id of its own."""
    row = connection.execute("SELECT count(*) FROM attribution_entry").fetchone()
    assert row is not None
    copies = max(0, -(-(calls - row[0]) // row[0]))
    for table, ids in (
        ("attribution_span", ("span_key", "call_id")),
        ("attribution_entry", ("call_id",)),
    ):
        columns = [
            name
            for (name,) in connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                [table],
            )
        ]
        values = ["gen_random_uuid()" if name in ids else name for name in columns]
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608  Postgres' own names
            f" FROM {table} CROSS JOIN generate_series(1, %s)",
            [copies],
        )
    # What autovacuum would do under the next measures.
    connection.execute("VACUUM (ANALYZE, FREEZE) attribution_span, attribution_entry")
    connection.execute("CHECKPOINT")
