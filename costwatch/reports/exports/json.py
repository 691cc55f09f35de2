"""Chargeback as JSON: decimals as strings, so that no reader makes floats of them; unknown is null."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from costwatch.reports.chargeback import Chargeback
from costwatch.reports.lines import LINE_FIELDS, Line, TeamTotal

CONTENT_TYPE = "application/json"
EXTENSION = "json"

_TEAM_FIELDS = tuple(field.name for field in fields(TeamTotal))
_COPIED = ("organization", "month", "currency", "state", "edition", "sha256")
_SUMS = ("total", "unattributed", "unpriced_lines", "unknown_usage_calls")


def document(chargeback: Chargeback) -> dict[str, Any]:
    """Everything but the lines, as plain JSON. The period is start and end in UTC."""
    return {
        **{name: _plain(getattr(chargeback, name)) for name in _COPIED},
        "start": _plain(chargeback.period.start),
        "end": _plain(chargeback.period.end),
        **{name: _plain(getattr(chargeback, name)) for name in _SUMS},
        "teams": [
            {name: _plain(getattr(team, name)) for name in _TEAM_FIELDS}
            for team in chargeback.teams
        ],
    }


def line(one: Line) -> dict[str, Any]:
    return {name: _plain(getattr(one, name)) for name in LINE_FIELDS}


def chunks(chargeback: Chargeback) -> Iterator[str]:
    """The document with its lines, a line at a time, so that a long month needs no memory."""
    yield _text(document(chargeback))[:-1] + ',"lines":['
    for number, one in enumerate(chargeback.lines):
        yield ("," if number else "") + "\n" + _text(line(one))
    yield "]}\n"


def text(chargeback: Chargeback) -> str:
    return "".join(chunks(chargeback))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case _:
            return value
