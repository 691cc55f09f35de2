"""A month goes open → review → closed; what is frozen stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
import time_machine
from django.db import DatabaseError, connection, transaction

from costwatch.accounts.models import AuditEvent, Organization, User
from costwatch.attribution.assignment import reassign
from costwatch.attribution.ingest import take
from costwatch.attribution.models import AssignmentRule
from costwatch.domain import money
from costwatch.pricing.models import Meter
from costwatch.reports import close
from costwatch.reports.adjustments import pending
from costwatch.reports.chargeback import chargeback, frozen
from costwatch.reports.close import CannotMove
from costwatch.reports.frozen import digest_of_closing, digest_of_statement, lines_of
from costwatch.reports.models import Closing, Month, Statement, StatementLine
from costwatch.reports.months import standings
from costwatch.reports.periods import month_asked
from tests.factories import TeamFactory, body, observation
from tests.pricing.usage import key_of, offering, source, token_price, used
from tests.reports.closing import IN_DECEMBER, IN_NOVEMBER, NOVEMBER, OCTOBER, closed


@pytest.fixture
def search(organization: Organization) -> object:
    """Search used 4 million tokens in October, somebody unknown 1 million, at 2.50 for a million."""
    team = TeamFactory(organization=organization, name="Search", cost_centre="CC-1")
    token_price(organization, Meter.OUTPUT_TOKENS, "2.50")
    used(
        source(organization, team, "ranking"),
        offering(organization),
        OCTOBER,
        output_tokens=4_000_000,
    )
    used(source(organization), offering(organization), OCTOBER, output_tokens=1_000_000)
    return team


def frozen_rows() -> list[object]:
    """Every frozen row, to the last byte."""
    return [
        list(model.objects.order_by("pk").values()) for model in (Closing, Statement, StatementLine)
    ]


def test_closing_freezes_a_statement_per_team_and_one_for_what_nobody_pays(
    organization: Organization, search: object
) -> None:
    closing = closed(organization, "2026-10")
    told = [
        (one.team_name, one.cost_centre, one.cost, one.lines_count)
        for one in closing.statements.order_by("number")
    ]
    assert told == [("Search", "CC-1", Decimal(10), 1), ("unattributed", "", Decimal("2.5"), 1)]
    assert (closing.cost, closing.currency, closing.lines_count) == (Decimal("12.5"), "USD", 2)
    [line] = lines_of(closing.statements.get(number=1))
    assert (line.kind, line.used_in, line.feature, line.quantity, line.unit_price, line.cost) == (
        "usage", "2026-10", "ranking", 4_000_000, Decimal("2.5"), Decimal("10.00"),
    )  # fmt: skip
    [event] = AuditEvent.objects.filter(action="month.closed")
    assert (event.target, event.details["sha256"]) == ("2026-10", closing.sha256)


def test_the_frozen_month_is_the_open_one_line_by_line(
    organization: Organization, search: object
) -> None:
    month = month_asked("2026-10", "UTC")
    before = chargeback(organization, month)
    closed(organization, "2026-10")
    after = chargeback(organization, month)
    assert list(after.lines) == list(before.lines)
    assert (after.total, after.unattributed) == (before.total, before.unattributed)
    assert [team.cost for team in after.teams] == [team.cost for team in before.teams]
    assert (before.state, after.state, after.edition) == ("open", "closed", 1)


def test_closing_twice_finds_it_closed(organization: Organization, search: object) -> None:
    first = closed(organization, "2026-10")
    before = frozen_rows()
    with time_machine.travel(IN_NOVEMBER + timedelta(days=2)):
        assert close.close(organization, "2026-10", None) == first
    assert frozen_rows() == before
    assert AuditEvent.objects.filter(action="month.closed").count() == 1


def test_the_same_figures_sign_alike(organization: Organization, search: object) -> None:
    first = closed(organization, "2026-10")
    close.reopen(organization, "2026-10", None, "to look again")
    again = closed(organization, "2026-10", IN_NOVEMBER + timedelta(days=9))
    assert again.sha256 == first.sha256
    assert (first.edition, again.edition) == (1, 2)


def test_a_signature_is_over_every_line(organization: Organization, search: object) -> None:
    closing = closed(organization, "2026-10")
    for statement in closing.statements.all():
        assert digest_of_statement(statement) == statement.sha256
    assert digest_of_closing(closing) == closing.sha256
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # without triggers
        cursor.execute(
            "UPDATE reports_statementline SET feature = 'other' WHERE feature = 'ranking'"
        )
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
    assert (
        digest_of_statement(closing.statements.get(number=1))
        != closing.statements.get(number=1).sha256
    )


@pytest.mark.parametrize("model", [Closing, Statement, StatementLine])
def test_the_database_refuses_to_change_what_is_frozen(
    organization: Organization, search: object, model: type
) -> None:
    closing = closed(organization, "2026-10")
    before = frozen_rows()
    with pytest.raises(DatabaseError, match="a closed month never changes"), transaction.atomic():
        model.objects.update(exact_cost=Decimal(0))
    with pytest.raises(DatabaseError, match="a closed month never changes"), transaction.atomic():
        model.objects.all()._raw_delete("default")
    added = Statement.objects.filter(closing=closing).last()
    assert added is not None
    added.pk, added.number = None, 3
    with pytest.raises(DatabaseError, match="one more than its closing"), transaction.atomic():
        added.save(force_insert=True)
    line = StatementLine.objects.filter(statement__closing=closing).last()
    assert line is not None
    line.number = 2
    with pytest.raises(DatabaseError, match="one more than its statement"), transaction.atomic():
        line.save(force_insert=True)
    assert frozen_rows() == before


def test_late_calls_become_an_adjustment_in_the_next_month(
    organization: Organization, search: object
) -> None:
    closed(organization, "2026-10")
    late = source(organization, search, "ranking")  # type: ignore[arg-type]
    used(late, offering(organization), OCTOBER + timedelta(hours=3), output_tokens=200_000)
    used(late, offering(organization), NOVEMBER, output_tokens=1_000_000)
    [line] = pending(organization, "2026-11")
    assert (line.team, line.used_in, line.cause, line.quantity, line.unit_price, line.exact_cost) == (
        "Search", "2026-10", "late", 200_000, Decimal("2.5"), Decimal("0.5"),
    )  # fmt: skip
    closing = closed(organization, "2026-11", IN_DECEMBER)
    told = [(one.kind, one.used_in, one.cause, one.cost) for one in frozen(closing).lines]
    assert told == [
        ("usage", "2026-11", "", Decimal("2.50")),
        ("adjustment", "2026-10", "late", Decimal("0.50")),
    ]
    assert pending(organization, "2026-12") == []


def test_a_corrected_price_becomes_an_adjustment_and_its_correction_another(
    organization: Organization, search: object
) -> None:
    before = closed(organization, "2026-10")
    token_price(organization, Meter.OUTPUT_TOKENS, "3")
    lines = pending(organization, "2026-11")
    assert [(x.team, x.cause, x.quantity, x.unit_price, x.exact_cost) for x in lines] == [
        ("Search", "price", 0, None, Decimal(2)),
        ("unattributed", "price", 0, None, Decimal("0.5")),
    ]
    closed(organization, "2026-11", IN_DECEMBER)
    token_price(organization, Meter.OUTPUT_TOKENS, "2.50")
    assert [line.exact_cost for line in pending(organization, "2026-12")] == [-2, Decimal("-0.5")]
    assert chargeback(organization, month_asked("2026-10", "UTC")).total == before.cost


def test_what_changes_hands_is_taken_from_one_team_and_given_to_another(
    organization: Organization, search: object
) -> None:
    closed(organization, "2026-10")
    chat = TeamFactory(organization=organization, name="Chat")
    AssignmentRule.objects.create(organization=organization, team=chat, feature="ranking")
    reassign(organization.pk)
    told = [(x.team, x.cause, x.quantity, x.cost) for x in pending(organization, "2026-11")]
    assert told == [
        ("Chat", "rule", 4_000_000, Decimal(10)),
        ("Search", "rule", -4_000_000, Decimal(-10)),
    ]


def test_a_price_that_becomes_known_is_an_adjustment(organization: Organization) -> None:
    used(source(organization), offering(organization), OCTOBER, output_tokens=1_000_000)
    closing = closed(organization, "2026-10")
    assert (closing.cost, closing.unpriced_lines) == (0, 1)
    token_price(organization, Meter.OUTPUT_TOKENS, "4")
    [line] = pending(organization, "2026-11")
    assert (line.state, line.unpriced_quantity, line.cost, line.cause) == (
        "known",
        -1_000_000,
        4,
        "price",
    )


def test_late_calls_at_a_new_price_have_several_causes(
    organization: Organization, search: object
) -> None:
    closed(organization, "2026-10")
    token_price(organization, Meter.OUTPUT_TOKENS, "5")
    used(source(organization), offering(organization), OCTOBER, output_tokens=3_000_000)
    by_team = {
        line.team: (line.cause, line.exact_cost) for line in pending(organization, "2026-11")
    }
    assert by_team == {"Search": ("price", 10), "unattributed": ("several", Decimal("12.5"))}


def test_a_month_that_is_not_over_is_not_closed(organization: Organization, search: object) -> None:
    with (
        time_machine.travel(OCTOBER),
        pytest.raises(CannotMove, match="is not over before 2026-11-01"),
    ):
        close.review(organization, "2026-10", None)


def test_a_month_is_reviewed_before_it_is_closed(
    organization: Organization, search: object
) -> None:
    with (
        time_machine.travel(IN_NOVEMBER),
        pytest.raises(CannotMove, match="expected it to be review"),
    ):
        close.close(organization, "2026-10", None)


def test_months_are_closed_in_order(organization: Organization, search: object) -> None:
    used(source(organization), offering(organization), NOVEMBER, output_tokens=1)
    with time_machine.travel(IN_DECEMBER):
        close.review(organization, "2026-11", None)
        with pytest.raises(CannotMove, match="2026-10 is not closed; months are closed in order"):
            close.close(organization, "2026-11", None)


def test_a_month_without_use_is_closed_with_the_next(
    organization: Organization, search: object
) -> None:
    closed(organization, "2026-10")
    december = NOVEMBER + timedelta(days=35)
    used(source(organization), offering(organization), december, output_tokens=1)
    closed(organization, "2026-12", december + timedelta(days=40))
    states = [
        (one.name, one.state, one.closing and one.closing.lines_count)
        for one in standings(organization, december)
    ]
    assert states == [("2026-10", "closed", 2), ("2026-11", "closed", 0), ("2026-12", "closed", 1)]


def test_a_month_that_nobody_used_cannot_be_moved(organization: Organization) -> None:
    with pytest.raises(CannotMove, match="nothing was used in '2026-10'"):
        close.review(organization, "2026-10", None)


def test_closing_waits_for_what_was_received_and_is_not_added_up(
    organization: Organization, search: object
) -> None:
    with time_machine.travel(IN_NOVEMBER):
        close.review(organization, "2026-10", None)
        take(key_of(organization), body(observation(at=OCTOBER)))
        refused = pytest.raises(CannotMove, match="1 bodies of telemetry of 2026-10 were received")
        with somebody_adding(organization), refused:
            close.close(organization, "2026-10", None)
        assert close.close(organization, "2026-10", None).lines_count == 4


@contextmanager
def somebody_adding(organization: Organization) -> Iterator[None]:
    """A worker that adds up this organization's batches and is not done."""
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('rollups'), %s)", [organization.pk])
        yield


def test_only_the_last_closed_month_is_reopened_with_a_reason(
    organization: Organization, search: object, owner: User
) -> None:
    closed(organization, "2026-10")
    used(source(organization), offering(organization), NOVEMBER, output_tokens=1)
    closed(organization, "2026-11", IN_DECEMBER)
    with time_machine.travel(IN_DECEMBER):
        with pytest.raises(CannotMove, match="2026-11 was closed after it"):
            close.reopen(organization, "2026-10", owner, "wrong team")
        with pytest.raises(CannotMove, match="needs a reason"):
            close.reopen(organization, "2026-11", owner, "  ")
        before = frozen_rows()
        close.reopen(organization, "2026-11", owner, "wrong team")
    assert Month.objects.get(name="2026-11").state == "open"
    assert frozen_rows() == before, "its statements stay; they are in force no more"
    event = AuditEvent.objects.get(action="month.reopened")
    assert (event.actor, event.details) == (owner, {"reason": "wrong team", "was": "closed"})


def test_yen_are_billed_without_decimals(organization: Organization) -> None:
    organization.currency = "JPY"
    organization.save()
    token_price(organization, Meter.OUTPUT_TOKENS, "100")
    used(source(organization), offering(organization), OCTOBER, output_tokens=1_234_567)
    assert money.total(line.cost for line in frozen(closed(organization, "2026-10")).lines) == 123


def test_a_month_after_a_closed_one_begins_where_that_ended_in_any_time_zone(
    organization: Organization, search: object
) -> None:
    closed(organization, "2026-10")
    organization.time_zone = "America/New_York"
    organization.save()
    october, november = standings(organization, IN_NOVEMBER)
    assert october.period.end == november.period.start == month_asked("2026-10", "UTC").end
    assert november.period.end == month_asked("2026-11", "America/New_York").end


def test_a_team_that_was_renamed_keeps_its_old_name_in_a_closed_month(
    organization: Organization, search: object
) -> None:
    closing = closed(organization, "2026-10")
    organization.teams.update(name="Discovery")
    assert [line.team for line in frozen(closing).lines] == ["Search", "unattributed"]
    assert (
        digest_of_statement(closing.statements.get(number=1))
        == closing.statements.get(number=1).sha256
    )
