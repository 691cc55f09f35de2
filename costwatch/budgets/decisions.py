"""May this call be made? Asked before it by gateways and collectors; answered from what is spent and what is held.

    decide      allow, degrade or deny, with the numbers it was decided on; what is allowed is held
    settle      what the call cost: held until the ledger has it
    release     the call was not made

Deciders of one budget take turns at its standing, so N racing clients together never get more than is left:
spent + held <= the limit, whatever they ask. What can go beyond it is what calls cost beyond their estimates,
and what nobody asked about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import transaction

from costwatch.accounts.models import Organization, Team
from costwatch.accounts.teams import team_subtree
from costwatch.attribution.identity import comes_back, group_of_response
from costwatch.attribution.models import Offering
from costwatch.budgets import standings
from costwatch.budgets.models import Budget
from costwatch.budgets.reservation_models import Hold, Reservation, Standing
from costwatch.budgets.standings import as_text
from costwatch.domain.periods import Period

HOLD_SECONDS = 600
MOST_HOLD_SECONDS = 86_400
_UNTIL_COUNTED = timedelta(minutes=10)  # what telemetry of a settled call may take
_KEPT = timedelta(days=2)


class Outcome(StrEnum):
    """From what does least to what does most; the strictest budget decides."""

    ALLOW = "allow"
    DEGRADE = "degrade"
    DENY = "deny"


_BY_STRICTNESS = tuple(Outcome)


class Conflict(Exception):
    """What was said of a reservation before says otherwise."""


@dataclass(frozen=True, slots=True)
class Question:
    """A call that somebody wants to make.

    estimated_cost   in the organization's currency. None: not known, nothing is held. Zero: it costs nothing, and no
                     budget is asked
    """

    team: Team | None = None
    feature: str = ""
    model: str = ""
    provider: str = ""
    source_id: int | None = None
    estimated_cost: Decimal | None = None
    hold_seconds: int = HOLD_SECONDS


@dataclass(frozen=True, slots=True)
class Judged:
    """One budget's word, with the numbers it was decided on."""

    budget: Budget
    outcome: Outcome
    spent: Decimal
    held: Decimal
    unpriced_calls: int
    as_of: datetime
    period: Period
    limits: standings.Limits

    def told(self, now: datetime) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "id": self.budget.pk,
            "name": self.budget.name,
            "decision": self.outcome.value,
            "currency": self.budget.currency,
            "amount": as_text(self.budget.amount),
            "spent": as_text(self.spent),
            "held": as_text(self.held),
            "unpriced_calls": self.unpriced_calls,
            "degrade_above": as_text(self.limits.degrade_above),
            "deny_above": as_text(self.limits.deny_above),
            "as_of": self.as_of.isoformat(),
            "age_seconds": round(max(0.0, (now - self.as_of).total_seconds()), 3),
            "period_end": self.period.end.isoformat(),
        }


def decide(
    organization: Organization, question: Question, now: datetime, key: str | None = None
) -> dict[str, Any]:
    """The answer as JSON. With a key that was used before, for the same question, the same answer.

    Raises Conflict where the key was used for another question.
    """
    asked = _fingerprint(question)
    if key is not None and (before := _before(organization, key, asked)) is not None:
        return before
    budgets = [] if question.estimated_cost == 0 else _asked(organization, question)
    standings.fresh(budgets, now)
    with transaction.atomic():
        judged = [_judge(*pair, question, now) for pair in _in_turn(budgets)]
        outcome = max((one.outcome for one in judged), key=_BY_STRICTNESS.index, default=Outcome.ALLOW)  # fmt: skip
        reservation = None if outcome is Outcome.DENY else Reservation(organization=organization)
        answer = _answer(outcome, judged, reservation, question, now)
        if reservation is None:
            return answer
        reservation.key, reservation.asked, reservation.answer = key, asked, answer
        reservation.made_at = now
        kept, is_new = _keep(reservation)
        if is_new:
            _hold(kept, judged, question, now)
        elif kept.asked != asked:
            raise Conflict(_OTHERWISE)
        return dict(kept.answer)


_OTHERWISE = "this Idempotency-Key was used for another question; use a new one for each"


def _fingerprint(question: Question) -> str:
    said = [
        question.team.pk if question.team else None, question.feature, question.model, question.provider,
        question.source_id, as_text(question.estimated_cost), question.hold_seconds,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _before(organization: Organization, key: str, asked: str) -> dict[str, Any] | None:
    kept = Reservation.objects.filter(organization=organization, key=key).first()
    if kept is None:
        return None
    if kept.asked != asked:
        raise Conflict(_OTHERWISE)
    return dict(kept.answer)


def _asked(organization: Organization, question: Question) -> list[Budget]:
    """The enforced budgets that such a call would be a part of."""
    models = {question.model} if question.model else set()
    if question.model:
        # A budget names models as the costs page does: as what answered.
        answered = Offering.objects.filter(organization=organization, request_model=question.model)
        models |= set(answered.values_list("response_model", flat=True)) - {""}
    return [
        budget
        for budget in standings.enforced().filter(organization=organization).order_by("pk")
        if _is_about(budget, question, models)
    ]


def _is_about(budget: Budget, question: Question, models: set[str]) -> bool:
    if budget.team is not None and (
        question.team is None or question.team.pk not in team_subtree(budget.team)
    ):
        return False
    return (
        budget.feature in ("", question.feature)
        and (not budget.model or budget.model in models)
        and budget.provider in ("", question.provider)
        and budget.source_id in (None, question.source_id)
    )


def _in_turn(budgets: Sequence[Budget]) -> Iterable[tuple[Budget, Standing]]:
    """Budgets with their standings, which nobody else decides on meanwhile. Always in one order, so nobody waits in a circle."""
    by_pk = {budget.pk: budget for budget in budgets}
    locked = Standing.objects.select_for_update().filter(budget__in=by_pk).order_by("budget_id")
    return [(by_pk[standing.pk], standing) for standing in locked]


def _judge(budget: Budget, standing: Standing, question: Question, now: datetime) -> Judged:
    period = Period(standing.period_start, standing.period_end)
    held, limits = standings.held(budget, period, now), standings.limits_of(budget)
    before = standing.spent + held
    after = before + (question.estimated_cost or 0)
    outcome = Outcome.ALLOW
    if limits.degrade_above is not None and _is_beyond(before, after, limits.degrade_above):
        outcome = Outcome.DEGRADE
    if limits.deny_above is not None and _is_beyond(before, after, limits.deny_above):
        outcome = Outcome.DENY
    return Judged(
        budget, outcome, standing.spent, held, standing.unpriced_calls, standing.as_of, period, limits
    )  # fmt: skip


def _is_beyond(before: Decimal, after: Decimal, limit: Decimal) -> bool:
    """Nothing is left, or not enough; a call whose cost nobody knows may be the one that uses the rest up."""
    return before >= limit or after > limit


def _answer(
    outcome: Outcome,
    judged: Sequence[Judged],
    reservation: Reservation | None,
    question: Question,
    now: datetime,
) -> dict[str, Any]:
    until = now + timedelta(seconds=question.hold_seconds)
    return {
        "decision": outcome.value,
        "id": str(reservation.pk) if reservation else None,
        "expires_at": until.isoformat() if reservation else None,
        "reason": _reason(outcome, judged, question),
        "budgets": [one.told(now) for one in judged],
    }


def _reason(outcome: Outcome, judged: Sequence[Judged], question: Question) -> str:
    if not judged:
        free = question.estimated_cost == 0
        return "it costs nothing" if free else "no enforced budget is about such a call"
    one = next(each for each in judged if each.outcome is outcome)
    limit = one.limits.deny_above if outcome is Outcome.DENY else one.limits.degrade_above
    spent = f"{as_text(one.spent)} spent at {one.as_of:%H:%M:%S} UTC and {as_text(one.held)} held"
    wanted = (
        "" if question.estimated_cost is None else f", {as_text(question.estimated_cost)} asked"
    )
    if outcome is Outcome.ALLOW:
        return f"{one.budget.name}: {spent} of {as_text(one.budget.amount)} {one.budget.currency}{wanted}"
    return (
        f"{one.budget.name}: {spent}{wanted}; {outcome.value} above {as_text(limit)} {one.budget.currency}"
        f" until {one.period.end:%Y-%m-%d %H:%M} UTC"
    )


def _keep(reservation: Reservation) -> tuple[Reservation, bool]:
    """The reservation, or the one that another asker with the same key has just made."""
    if reservation.key is None:
        reservation.save(force_insert=True)
        return reservation, True
    values = {
        name: getattr(reservation, name) for name in ("id", "asked", "answer", "made_at", "state")
    }
    return Reservation.objects.get_or_create(
        organization=reservation.organization, key=reservation.key, defaults=values
    )


def _hold(
    reservation: Reservation, judged: Sequence[Judged], question: Question, now: datetime
) -> None:
    Hold.objects.bulk_create(
        Hold(
            reservation=reservation,
            budget=one.budget,
            period_start=one.period.start,
            amount=question.estimated_cost or Decimal(0),
            until=now + timedelta(seconds=question.hold_seconds),
        )
        for one in judged
    )


@transaction.atomic
def settle(
    organization: Organization, pk: UUID, cost: Decimal, response_id: str, now: datetime
) -> Reservation:
    """What the call cost; with its provider's response id the hold ends as soon as the ledger has the call.

    Without one, or with one that servers use again, it ends after ten minutes. The same again changes nothing. Raises
    Reservation.DoesNotExist, and Conflict where something else was said before.
    """
    reservation = _locked(organization, pk)
    known = _call_id(response_id)
    if reservation.state == Reservation.State.SETTLED:
        if (reservation.cost, reservation.call_id) != (cost, known):
            raise Conflict(f"it was settled before, at {as_text(reservation.cost)}")
        return reservation
    if reservation.state == Reservation.State.RELEASED:
        raise Conflict("it was released before, as a call that was not made")
    reservation.state, reservation.cost = Reservation.State.SETTLED, cost
    reservation.call_id = known
    reservation.save(update_fields=["state", "cost", "call_id"])
    reservation.holds.update(amount=cost, until=now + _UNTIL_COUNTED)
    return reservation


def _call_id(response_id: str) -> UUID | None:
    """The call's id in the ledger; None where the id does not say which call it is."""
    if not response_id or comes_back(response_id):
        return None
    return UUID(bytes=group_of_response(response_id))


@transaction.atomic
def release(organization: Organization, pk: UUID, now: datetime) -> Reservation:
    """The call was not made: nothing is held for it. The same again changes nothing.

    Raises Reservation.DoesNotExist, and Conflict where it was settled before.
    """
    reservation = _locked(organization, pk)
    if reservation.state == Reservation.State.SETTLED:
        raise Conflict(f"it was settled before, at {as_text(reservation.cost)}")
    if reservation.state == Reservation.State.OPEN:
        reservation.state = Reservation.State.RELEASED
        reservation.save(update_fields=["state"])
        reservation.holds.update(until=now)
    return reservation


def _locked(organization: Organization, pk: UUID) -> Reservation:
    return Reservation.objects.select_for_update().get(organization=organization, pk=pk)


def forget_old(now: datetime) -> int:
    """Delete reservations that have held nothing for long; returns how many rows that were."""
    old = Reservation.objects.filter(made_at__lt=now - _KEPT)
    deleted, _ = old.exclude(holds__until__gt=now).delete()
    return deleted
