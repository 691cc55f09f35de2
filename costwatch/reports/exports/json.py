"""Chargeback as JSON: decimals as strings, so that no reader makes floats of them; unknown is null."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from costwatch.reports.chargeback import Chargeback

CONTENT_TYPE = "application/json"


def document(chargeback: Chargeback) -> dict[str, Any]:
    """What is plain JSON: text, whole numbers, lists and objects. The period is start and end in UTC."""
    said = asdict(chargeback)
    period = said.pop("period")
    plain: dict[str, Any] = _plain(said | {"start": period["start"], "end": period["end"]})
    return plain


def text(chargeback: Chargeback) -> str:
    return json.dumps(document(chargeback), ensure_ascii=False, indent=2)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case str():
            return str(value)
        case _:
            return value
