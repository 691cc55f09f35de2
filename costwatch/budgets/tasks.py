"""Celery's side of this room. A task takes ids, calls one verb, and is safe twice."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from costwatch.budgets import decisions, notify
from costwatch.budgets.evaluate import evaluate
from costwatch.budgets.models import Budget

beat_schedule: dict[str, dict[str, Any]] = {
    # Usage asks for this itself; the sweep finds what came within the pause between two askings,
    # and follows prices and rules that changed.
    "evaluate-budgets": {"task": "budgets.evaluate_all", "schedule": 20.0},
    "deliver-due-alerts": {"task": "budgets.deliver_due", "schedule": 15.0},
    "forget-old-reservations": {"task": "budgets.forget_old", "schedule": 3600.0},
}


@shared_task(name="budgets.evaluate")
def evaluate_budgets(organization_id: int) -> None:
    for delivery_id in evaluate(organization_id, timezone.now()):
        deliver.delay(delivery_id)


@shared_task(name="budgets.evaluate_all")
def evaluate_all() -> None:
    active = Budget.objects.filter(active=True).order_by("organization_id")
    for organization_id in active.values_list("organization_id", flat=True).distinct():
        evaluate_budgets.delay(organization_id)


@shared_task(name="budgets.deliver")
def deliver(delivery_id: int) -> None:
    notify.deliver(delivery_id, timezone.now())


@shared_task(name="budgets.deliver_due")
def deliver_due() -> None:
    """First attempts whose task was lost with its worker, and further ones."""
    for delivery_id in notify.due(timezone.now()):
        deliver.delay(delivery_id)


@shared_task(name="budgets.forget_old")
def forget_old_reservations() -> None:
    decisions.forget_old(timezone.now())
