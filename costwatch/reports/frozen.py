"""Reading what is frozen: a statement, its lines one after the other, and whether they still are what was signed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from django.db.models import QuerySet

from costwatch.domain import money
from costwatch.domain.pricing import PriceState, shortened
from costwatch.reports.lines import LINE_FIELDS, Line, TeamTotal, canonical, digest
from costwatch.reports.models import Closing, Statement, StatementLine

_AT_ONCE = 2000  # lines that are held at a time
_COLUMNS = {
    "team_id": "statement__team_id",
    "team": "statement__team_name",
    "cost_centre": "statement__cost_centre",
}


class FrozenLines(Collection[Line]):
    """The lines of some statements, read anew each time they are walked through: a million need no memory."""

    def __init__(self, rows: QuerySet[StatementLine], count: int, places: int) -> None:
        self._rows = rows
        self._count = count
        self._places = places

    def __iter__(self) -> Iterator[Line]:
        columns = [_COLUMNS.get(name, name) for name in LINE_FIELDS]
        for values in self._rows.values_list(*columns).iterator(chunk_size=_AT_ONCE):
            yield self._line(values)

    def _line(self, values: tuple[Any, ...]) -> Line:
        said = dict(zip(LINE_FIELDS, values, strict=True))
        said["cost"] = money.rounded(said["cost"], self._places)
        said["exact_cost"] = shortened(said["exact_cost"])
        return Line(**said)

    def __len__(self) -> int:
        return self._count

    def of_team(self, team_id: int | None) -> FrozenLines:
        return self._only(statement__team=team_id)

    def adjustments(self) -> FrozenLines:
        return self._only(kind=StatementLine.Kind.ADJUSTMENT)

    def unpriced(self) -> int:
        return self._rows.filter(state=PriceState.UNKNOWN).count()

    def _only(self, **wanted: Any) -> FrozenLines:
        rows = self._rows.filter(**wanted)
        return FrozenLines(rows, rows.count(), self._places)

    def __contains__(self, line: object) -> bool:
        return any(line == one for one in self)


def frozen_lines(closing: Closing) -> FrozenLines:
    rows = StatementLine.objects.filter(
        organization=closing.organization_id, statement__closing=closing
    )
    ordered = rows.order_by("statement__number", "number")
    return FrozenLines(ordered, closing.lines_count, closing.places)


def lines_of(statement: Statement) -> FrozenLines:
    rows = StatementLine.objects.filter(
        organization=statement.organization_id, statement=statement
    ).order_by("number")
    return FrozenLines(rows, statement.lines_count, statement.closing.places)


def lines_after(statement: Statement, number: int, limit: int) -> list[Line]:
    """So many lines of a statement at most, from the one after this number on."""
    rows = StatementLine.objects.filter(
        organization=statement.organization_id,
        statement=statement,
        number__gt=number,
        number__lte=number + limit,
    )
    return list(FrozenLines(rows.order_by("number"), limit, statement.closing.places))


def frozen_totals(closing: Closing) -> tuple[TeamTotal, ...]:
    return tuple(
        TeamTotal(
            one.team_id,
            one.team_name,
            one.cost_centre,
            money.rounded(one.cost, closing.places),
            one.pk,
        )
        for one in closing.statements.order_by("number")
    )


def digest_of_statement(statement: Statement) -> str:
    """What its sha256 must be: computed from the rows as they are now."""
    header = header_of(statement.closing, statement.team_id, statement.team_name)
    return digest(header, map(canonical, lines_of(statement)))


def digest_of_closing(closing: Closing) -> str:
    """As for a statement, from its statements' digests."""
    digests = closing.statements.order_by("number").values_list("sha256", flat=True)
    return digest(header_of(closing, None, ""), (one.encode() for one in digests))


def header_of(closing: Closing, team_id: int | None, team: str) -> dict[str, str]:
    """What is signed beside the lines; not when and by whom it was closed, so that the same figures sign alike."""
    return {
        "organization": closing.organization_name,
        "month": closing.month.name,
        "start": closing.period.start.isoformat(),
        "end": closing.period.end.isoformat(),
        "currency": closing.currency,
        "team_id": "" if team_id is None else str(team_id),
        "team": team,
    }
