"""Moving a month: open → review → closed, and back with a reason.

    review   finance looks at it; nothing is frozen, what comes late still counts
    close    freezes a statement per team and one for what nobody pays, in one transaction
    reopen   of the last closed month, with a reason: its statements stay as they are, but are in force no more

Every move is written to the audit log, and safe twice: the second finds the work done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.attribution.models import Batch
from costwatch.attribution.rollups import add_batches
from costwatch.domain import money
from costwatch.pricing.rates import refresh_if_new
from costwatch.reports.chargeback import Chargeback, current
from costwatch.reports.frozen import header_of
from costwatch.reports.lines import LINE_FIELDS, Line, by_team, canonical, digest
from costwatch.reports.models import Closing, Month, State, Statement, StatementLine
from costwatch.reports.months import Standing, standings

_AT_ONCE = 2000  # lines in a statement of SQL
_COPIED = tuple(name for name in LINE_FIELDS if name not in {"team_id", "team", "cost_centre"})


class CannotMove(ValueError):
    """Why a month stays where it is, and what to do."""


@dataclass(frozen=True, slots=True)
class _Month:
    """A month whose organization is locked until the transaction ends."""

    organization: Organization
    standing: Standing
    all: Sequence[Standing]
    actor: User | None

    @property
    def name(self) -> str:
        return self.standing.name


def move(
    organization: Organization, name: str, state: State, actor: User | None, reason: str = ""
) -> None:
    """To any state; where it is there already, nothing happens. Raises CannotMove."""
    match state:
        case State.REVIEW:
            review(organization, name, actor)
        case State.CLOSED:
            close(organization, name, actor)
        case State.OPEN:
            reopen(organization, name, actor, reason)


@transaction.atomic
def review(organization: Organization, name: str, actor: User | None) -> None:
    """Raises CannotMove."""
    month = _locked(organization, name, actor)
    if month.standing.state == State.REVIEW:
        return
    _expect(month, State.OPEN, "take it to review")
    _expect_over(month.standing)
    _move(month, State.REVIEW)
    _record(month, "month.reviewed")


def close(organization: Organization, name: str, actor: User | None) -> Closing:
    """The closing that is in force; of a month that is closed already the one it has. Raises CannotMove."""
    add_batches(organization.pk)
    refresh_if_new(organization.pk)
    with transaction.atomic():
        month = _locked(organization, name, actor)
        if month.standing.closing is not None:
            return month.standing.closing
        _expect(month, State.REVIEW, "close it")
        _expect_over(month.standing)
        _expect_earlier_closed(month.standing)
        _expect_all_added(organization, month.standing)
        for skipped in _unused_before(month):
            _freeze(skipped, _empty(organization, skipped.standing))
        return _freeze(month, current(organization, month.standing))


@transaction.atomic
def reopen(organization: Organization, name: str, actor: User | None, reason: str) -> None:
    """From review or closed back to open. Raises CannotMove."""
    month = _locked(organization, name, actor)
    if month.standing.state == State.OPEN:
        return
    if not reason.strip():
        raise CannotMove(
            f"{name} is {month.standing.state.label.lower()}: reopening it needs a reason"
        )
    later = [one.name for one in month.all if one.closing and one.name > name]
    if month.standing.closing is not None and later:
        raise CannotMove(
            f"{name} can't be reopened: {later[0]} was closed after it and holds its corrections; "
            "what changes now becomes an adjustment in the next month"
        )
    was = month.standing.state
    _move(month, State.OPEN)
    _record(month, "month.reopened", reason=reason.strip(), was=was.value)


# What has to hold


def _locked(organization: Organization, name: str, actor: User | None) -> _Month:
    """One mover of an organization's months at a time. Raises CannotMove where there is no such month."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('months'), %s)", [organization.pk])
    known = standings(organization, timezone.now())
    standing = next((one for one in known if one.name == name), None)
    if standing is None:
        raise CannotMove(
            f"nothing was used in {name!r}; expected a month with use, such as 2026-11"
        )
    return _Month(organization, standing, known, actor)


def _expect(month: _Month, state: State, to: str) -> None:
    found = month.standing.state
    if found != state:
        raise CannotMove(
            f"{month.name} is {found.label.lower()}; expected it to be {state.label.lower()}, to {to}"
        )


def _expect_over(standing: Standing) -> None:
    if not standing.is_over:
        raise CannotMove(
            f"{standing.name} is not over before {standing.period.end:%Y-%m-%d %H:%M} UTC; wait until then"
        )


def _expect_earlier_closed(standing: Standing) -> None:
    if standing.open_before:
        raise CannotMove(
            f"{standing.open_before} is not closed; months are closed in order, so close it first"
        )


def _expect_all_added(organization: Organization, standing: Standing) -> None:
    waiting = Batch.objects.filter(
        organization=organization,
        added_at=None,
        first_started_at__lt=standing.period.end,
        last_started_at__gte=standing.period.start,
    ).count()
    if waiting:
        raise CannotMove(
            f"{waiting} bodies of telemetry of {standing.name} were received and not added up yet; "
            "try again in a minute"
        )


# Freezing


def _unused_before(month: _Month) -> list[_Month]:
    return [
        _Month(month.organization, one, month.all, month.actor)
        for one in month.all
        if one.name < month.name and one.closing is None
    ]


def _empty(organization: Organization, standing: Standing) -> Chargeback:
    """Of a month without use; corrections go to the next one that is closed by a person."""
    zero = money.rounded(money.total([]), places := money.places_of(organization.currency))
    return Chargeback(
        organization_id=organization.pk,
        organization=organization.name,
        month=standing.name,
        period=standing.period,
        currency=organization.currency,
        state=State.OPEN.value,
        edition=0,
        sha256="",
        lines=(),
        teams=(),
        total=zero,
        unattributed=zero,
        unpriced_lines=0,
        unknown_usage_calls=0,
        places=places,
        periods={},
    )


def _freeze(month: _Month, report: Chargeback) -> Closing:
    row = _move(month, State.CLOSED)
    closing = _closing(month, row, report)
    statements = [
        (_statement(closing, number, theirs, month.organization), theirs)
        for number, (_, theirs) in enumerate(by_team(report.lines), start=1)
    ]
    closing.sha256 = digest(
        header_of(closing, None, ""), (one.sha256.encode() for one, _ in statements)
    )
    closing.save(force_insert=True)
    Statement.objects.bulk_create([one for one, _ in statements])
    StatementLine.objects.bulk_create(
        (
            _row(statement, number, line)
            for statement, theirs in statements
            for number, line in enumerate(theirs, start=1)
        ),
        batch_size=_AT_ONCE,
    )
    _record(month, "month.closed", edition=closing.edition, sha256=closing.sha256)
    return closing


def _closing(month: _Month, row: Month, report: Chargeback) -> Closing:
    return Closing(
        organization=month.organization,
        month=row,
        edition=month.standing.editions + 1,
        organization_name=report.organization,
        start=report.period.start,
        end=report.period.end,
        currency=report.currency,
        places=report.places,
        statements_count=len(report.teams),
        lines_count=len(report.lines),
        unpriced_lines=report.unpriced_lines,
        unknown_usage_calls=report.unknown_usage_calls,
        adjusted={
            name: [period.start.isoformat(), period.end.isoformat()]
            for name, period in sorted(report.periods.items())
        },
        exact_cost=money.total(line.exact_cost for line in report.lines),
        cost=report.total,
        unattributed=report.unattributed,
        closed_at=timezone.now(),
        closed_by=month.actor.email if month.actor else "",
    )


def _statement(
    closing: Closing, number: int, lines: Sequence[Line], organization: Organization
) -> Statement:
    first = lines[0]
    return Statement(
        organization=organization,
        closing=closing,
        number=number,
        team_id=first.team_id,
        team_name=first.team,
        cost_centre=first.cost_centre,
        lines_count=len(lines),
        unpriced_lines=sum(line.is_unpriced for line in lines),
        exact_cost=money.total(line.exact_cost for line in lines),
        cost=money.total(line.cost for line in lines),
        sha256=digest(header_of(closing, first.team_id, first.team), map(canonical, lines)),
    )


def _row(statement: Statement, number: int, line: Line) -> StatementLine:
    values: dict[str, Any] = {name: getattr(line, name) for name in _COPIED}
    return StatementLine(
        organization_id=statement.organization_id, statement=statement, number=number, **values
    )


def _move(month: _Month, state: State) -> Month:
    row, _ = Month.objects.update_or_create(
        organization=month.organization,
        name=month.name,
        defaults={"state": state, "changed_at": timezone.now()},
    )
    return row


def _record(month: _Month, action: str, **details: Any) -> None:
    AuditEvent.objects.create(
        organization=month.organization,
        actor=month.actor,
        action=action,
        target=month.name,
        details=details,
    )
