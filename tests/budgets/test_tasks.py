from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from celery import current_app

from costwatch.budgets.models import Budget, Delivery
from costwatch.budgets.tasks import beat_schedule, deliver_due, evaluate_all
from costwatch.pricing.models import Meter
from tests.budgets.mailbox import mailbox
from tests.factories import OrganizationFactory, observation
from tests.pricing.usage import take, token_price


@pytest.fixture
def at_once() -> Iterator[None]:
    """Tasks run where they are sent."""
    current_app.conf.task_always_eager = True
    current_app.conf.task_eager_propagates = True
    yield
    current_app.conf.task_always_eager = False
    current_app.conf.task_eager_propagates = False


@pytest.mark.django_db(transaction=True)
def test_the_call_that_crosses_a_threshold_sends_the_mail(
    transactional_db: None, at_once: None
) -> None:

    organization = OrganizationFactory()
    token_price(organization, Meter.OUTPUT_TOKENS, "1000")
    Budget.objects.create(
        organization=organization,
        name="all",
        amount=Decimal("0.01"),
        currency="USD",
        addresses=["fin@example.org"],
    )
    with mailbox() as box:
        take(organization, observation(at=datetime.now(UTC)))
        assert len(box.mails) == 1
        evaluate_all.delay()
        deliver_due.delay()
        assert len(box.mails) == 1
    assert Delivery.objects.get().state == "sent"


def test_beat_knows_tasks_that_exist() -> None:
    assert {entry["task"] for entry in beat_schedule.values()} <= set(current_app.tasks)
