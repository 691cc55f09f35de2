"""Celery's side of this room. A task takes ids, calls one verb, and is safe twice."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.schedules import crontab
from django.utils import timezone

from costwatch.reports import bill_fetches
from costwatch.reports.bill_models import ProviderAccount

beat_schedule: dict[str, dict[str, Any]] = {
    # By then providers have added up the day before.
    "plan-bill-fetches": {
        "task": "reports.plan_bill_fetches",
        "schedule": crontab(hour=5, minute=20),
    },
    "fetch-due-bills": {"task": "reports.fetch_due_bills", "schedule": 60.0},
}


@shared_task(name="reports.plan_bill_fetches")
def plan_bill_fetches() -> None:
    now = timezone.now()
    for account in ProviderAccount.objects.filter(active=True).order_by("id"):
        fetch_bill.delay(bill_fetches.plan(account, now).pk)


@shared_task(name="reports.fetch_bill")
def fetch_bill(fetch_id: int) -> None:
    bill_fetches.fetch(fetch_id, timezone.now())


@shared_task(name="reports.fetch_due_bills")
def fetch_due_bills() -> None:
    """First attempts whose task was lost with its worker, and further ones."""
    for fetch_id in bill_fetches.due(timezone.now()):
        fetch_bill.delay(fetch_id)
