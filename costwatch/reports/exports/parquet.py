"""FOCUS 1.2 rows as Parquet; needs the pyarrow package."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from costwatch.domain import money
from costwatch.reports.chargeback import Chargeback
from costwatch.reports.exports import MissingExtra, focus
from costwatch.reports.exports.files import pieces_of

CONTENT_TYPE = "application/vnd.apache.parquet"
EXTENSION = "focus-1.2.parquet"

_ROWS = 5_000  # of a row group, which is held at a time
_SCALE = 12
_DIGITS = 38  # the most that readers take


def chunks(chargeback: Chargeback) -> Iterator[bytes]:
    """Raises MissingExtra where pyarrow is not installed."""
    arrow, parquet = _packages()
    schema = arrow.schema([(name, _type(arrow, kind)) for name, kind in focus.COLUMNS.items()])
    return pieces_of(lambda path: _write(arrow, parquet, schema, path, chargeback))


def _packages() -> tuple[Any, Any]:
    try:
        import pyarrow  # an extra of 40 MB, which most installations do without
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra(
            "Parquet needs the pyarrow package; install it with: pip install 'costwatch-ai[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _type(arrow: Any, kind: str) -> Any:
    if kind == focus.DECIMAL:
        return arrow.decimal128(_DIGITS, _SCALE)
    return arrow.timestamp("us", "UTC") if kind == focus.TIME else arrow.string()


def _write(arrow: Any, parquet: Any, schema: Any, path: Path, chargeback: Chargeback) -> None:
    rows = focus.rows(chargeback)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _ROWS)):
            columns = {name: [_cell(row.get(name)) for row in some] for name in focus.COLUMNS}
            writer.write_table(arrow.table(columns, schema))


def _cell(value: focus.Value) -> object:
    if isinstance(value, Decimal):
        return value.quantize(Decimal(1).scaleb(-_SCALE), ROUND_HALF_UP, money.EXACT)
    return value
