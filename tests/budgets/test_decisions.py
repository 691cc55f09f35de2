"""Hard budgets: what is allowed never goes beyond what is left, however many ask at once, and nothing counts twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
import time_machine
from django.db import connection, connections
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from collectors.observation import Tags, Usage
from costwatch.accounts.models import Organization
from costwatch.attribution import ingest
from costwatch.attribution.models import Offering
from costwatch.attribution.rollups import add_batches
from costwatch.budgets import decisions, standings
from costwatch.budgets.decisions import Conflict, Question
from costwatch.budgets.models import Budget
from costwatch.budgets.reservation_models import Reservation
from costwatch.pricing.models import Meter
from tests.factories import OrganizationFactory, TeamFactory, body, observation
from tests.pricing import usage
from tests.pricing.usage import HOUR, offering, source, token_price, used

NOW = HOUR + timedelta(minutes=50)
MILLION = 10**6


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Coordinates]:
    with time_machine.travel(NOW, tick=False) as travelled:
        yield travelled


def budget(organization: Organization, amount: int = 100, **said: object) -> Budget:
    wanted = {"name": "b", "amount": Decimal(amount), "currency": "USD", "deny_at": 100}
    return Budget.objects.create(organization=organization, **{**wanted, **said})


def ask(organization: Organization, cost: str | None, key: str | None = None, **said: object) -> dict[str, object]:  # fmt: skip
    estimated = None if cost is None else Decimal(cost)
    question = Question(estimated_cost=estimated, **said)  # type: ignore[arg-type]
    return decisions.decide(organization, question, timezone.now(), key)


def held(one: Budget) -> Decimal:
    enforcement = standings.enforcement_of(one, timezone.now())
    assert enforcement is not None
    return enforcement.held


def test_calls_are_allowed_then_degraded_then_denied(organization: Organization) -> None:
    one = budget(organization, degrade_at=50)
    assert [ask(organization, "30")["decision"] for _ in range(4)] == ["allow", "degrade", "degrade", "deny"]  # fmt: skip
    assert held(one) == 90
    denied = ask(organization, "30")
    assert denied["id"] is None
    [judged] = denied["budgets"]  # type: ignore[misc]
    assert (judged["spent"], judged["held"], judged["deny_above"]) == ("0", "90", "100")
    assert "90 held, 30 asked; deny above 100 USD" in str(denied["reason"])
    assert ask(organization, "10")["decision"] == "degrade"
    assert ask(organization, None)["decision"] == "deny", "nothing is left"
    assert ask(organization, "0")["decision"] == "allow", "what costs nothing is nobody's business"


def test_what_is_spent_counts_and_the_answer_says_how_old_that_number_is(
    organization: Organization, clock: time_machine.Coordinates
) -> None:
    budget(organization)
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    used(source(organization), offering(organization), output_tokens=90 * MILLION)
    assert ask(organization, "20")["decision"] == "deny"
    used(source(organization), offering(organization), output_tokens=5 * MILLION, hour=HOUR - timedelta(hours=1))  # fmt: skip
    clock.shift(1)
    [judged] = ask(organization, "8")["budgets"]  # type: ignore[misc]
    assert (judged["spent"], judged["age_seconds"], judged["decision"]) == ("90", 1.0, "allow")
    clock.shift(2)
    [judged] = ask(organization, "8")["budgets"]  # type: ignore[misc]
    assert (judged["spent"], judged["age_seconds"], judged["decision"]) == ("95", 0.0, "deny")


def test_a_settled_call_is_held_until_the_ledger_has_it_and_never_beside_it(
    organization: Organization, clock: time_machine.Coordinates
) -> None:
    one = budget(organization)
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    answer = ask(organization, "50")
    response_id = "chatcmpl-" + "7" * 29
    pk = UUID(str(answer["id"]))
    decisions.settle(organization, pk, Decimal(30), response_id, timezone.now())
    assert held(one) == 30
    seen = observation(
        response_id=response_id, response_model="gpt-4o", request_model="gpt-4o", provider="openai",
        start_unix_ns=int(NOW.timestamp()) * 10**9, end_unix_ns=int(NOW.timestamp()) * 10**9 + 1,
        usage=Usage(input_tokens=0, output_tokens=30 * MILLION), tags=Tags(),
    )  # fmt: skip
    ingest.take(usage.key_of(organization), body(seen))
    clock.shift(3)
    assert held(one) == 30, "it is in the ledger, and not yet in the rollups that budgets read"
    with TestCase.captureOnCommitCallbacks(execute=True):
        add_batches(organization.pk)
    clock.shift(3)
    enforcement = standings.enforcement_of(one, timezone.now())
    assert enforcement is not None
    assert (enforcement.spent, enforcement.held) == (30, 0)
    assert Reservation.objects.get(pk=pk).counted_at is not None


def test_settling_and_releasing_again_change_nothing_and_something_else_is_refused(
    organization: Organization,
) -> None:
    one = budget(organization)
    first, second = (UUID(str(ask(organization, "20")["id"])) for _ in range(2))
    now = timezone.now()
    for _ in range(2):
        decisions.settle(organization, first, Decimal(7), "", now)
        decisions.release(organization, second, now)
    assert held(one) == 7
    with pytest.raises(Conflict, match="settled before, at 7"):
        decisions.settle(organization, first, Decimal(8), "", now)
    with pytest.raises(Conflict, match="settled before"):
        decisions.release(organization, first, now)
    with pytest.raises(Conflict, match="released before"):
        decisions.settle(organization, second, Decimal(8), "", now)
    with pytest.raises(Reservation.DoesNotExist):
        decisions.release(OrganizationFactory(), first, now)


def test_what_nobody_settles_is_held_until_its_time_is_over(
    organization: Organization, clock: time_machine.Coordinates
) -> None:
    one = budget(organization)
    ask(organization, "60", hold_seconds=30)
    assert ask(organization, "60")["decision"] == "deny"
    clock.shift(31)
    assert held(one) == 0
    assert ask(organization, "60")["decision"] == "allow"


def test_a_key_that_is_sent_again_holds_once(organization: Organization) -> None:
    one = budget(organization)
    assert ask(organization, "60", "k") == ask(organization, "60", "k")
    assert held(one) == 60
    with pytest.raises(Conflict, match="another question"):
        ask(organization, "61", "k")


def test_only_budgets_that_the_call_would_be_a_part_of_are_asked(
    organization: Organization,
) -> None:
    above = TeamFactory(organization=organization)
    below, beside = TeamFactory(organization=organization, parent=above), TeamFactory(organization=organization)  # fmt: skip
    row = offering(organization, model="small")
    Offering.objects.filter(pk=row.pk).update(response_model="small-2026-01-01")
    for name, said in {
        "all": {},
        "above": {"team": above},
        "feature": {"feature": "answers"},
        "model": {"model": "small-2026-01-01"},
        "provider": {"provider": "openai"},
        "not enforced": {"deny_at": None},
        "paused": {"active": False},
    }.items():
        budget(organization, name=name, **said)
    budget(OrganizationFactory(), name="theirs")

    def asked(**said: object) -> list[str]:
        answer = ask(organization, "1", **said)
        return [each["name"] for each in answer["budgets"]]  # type: ignore[attr-defined]

    assert asked() == ["all"]
    assert asked(team=below) == ["all", "above"]
    assert asked(team=beside, feature="answers") == ["all", "feature"]
    assert asked(model="small", provider="openai") == ["all", "model", "provider"]


# So that others have time to come between a decision and what it holds.
_SLOWLY = """
CREATE OR REPLACE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER slowly BEFORE INSERT ON budgets_reservation FOR EACH ROW EXECUTE FUNCTION slowly();
"""


@pytest.mark.django_db(transaction=True)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    estimates=st.lists(st.integers(10, 40), min_size=4, max_size=12),
    costs=st.lists(st.integers(0, 40), min_size=12, max_size=12),
)
def test_racing_clients_never_get_more_than_is_left(
    transactional_db: None, estimates: list[int], costs: list[int]
) -> None:
    """Each asks, and says what it cost, which is at most what it asked for; the limit holds at every moment."""
    organization: Organization = OrganizationFactory()
    one = budget(organization)
    with connection.cursor() as cursor:
        cursor.execute(_SLOWLY)
    allowed: list[tuple[int, int]] = []
    denied: list[int] = []

    def client(place: int) -> None:
        try:
            estimate = estimates[place]
            answer = ask(organization, str(estimate))
            if answer["decision"] == "allow":
                cost = min(costs[place], estimate)
                decisions.settle(organization, UUID(str(answer["id"])), Decimal(cost), "", NOW)
                allowed.append((estimate, cost))
            else:
                denied.append(estimate)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=client, args=(place,)) for place in range(len(estimates))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION slowly CASCADE")
    assert len(allowed) + len(denied) == len(estimates)
    total = sum(cost for _, cost in allowed)
    assert held(one) == total
    assert total <= 100
    if denied:  # by what all held together at that moment
        assert sum(estimate for estimate, _ in allowed) + max(denied) > 100


def test_reservations_that_hold_nothing_are_forgotten_after_two_days(
    organization: Organization, clock: time_machine.Coordinates
) -> None:
    budget(organization)
    ask(organization, "1")
    clock.shift(3 * 86_400)
    ask(organization, "1")
    assert decisions.forget_old(timezone.now()) == 2  # with its hold
    assert Reservation.objects.count() == 1
