"""Evaluating workers as they run for real: several processes, one of which is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from costwatch.accounts.models import Organization
from costwatch.budgets.models import Alert, Budget, Delivery
from costwatch.pricing.models import Meter
from tests.factories import OrganizationFactory
from tests.pricing.usage import HOUR, offering, source, token_price, used

_WORKER = """
import sys, django
django.setup()
from datetime import datetime
from costwatch.budgets.evaluate import evaluate
print(len(evaluate(int(sys.argv[1]), datetime.fromisoformat(sys.argv[2]))))
"""
NOW = HOUR + timedelta(minutes=50)


def worker(organization: Organization) -> subprocess.Popen[str]:
    where = settings.DATABASES["default"]
    url = f"postgresql://{where['USER']}:{where['PASSWORD']}@{where['HOST']}:{where['PORT']}"
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(organization.pk), NOW.isoformat()],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "DATABASE_URL": f"{url}/{where['NAME']}",
            "DJANGO_SETTINGS_MODULE": "costwatch.settings",
        },
    )


def until(what: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline, f"{what}: not within a minute"
        time.sleep(0.05)


def waiting() -> int:
    """Backends that wait for another one's row."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_two_racing_workers_of_which_one_is_killed_tell_a_threshold_once(
    transactional_db: None,
) -> None:
    organization: Organization = OrganizationFactory()
    budget = Budget.objects.create(
        organization=organization,
        name="b",
        amount=Decimal(100),
        currency="USD",
        thresholds=[100],
        addresses=["fin@example.org"],
    )
    token_price(organization, Meter.OUTPUT_TOKENS, "1")
    used(source(organization), offering(organization), output_tokens=100 * 10**6)

    # The deliveries' table is held, so that both come to the middle of what they do: an alert written by one of them,
    # not yet its deliveries; the other one waiting for it.
    with psycopg.connect(**connection.get_connection_params() | {"cursor_factory": None}) as held:  # type: ignore[arg-type]
        held.execute("LOCK TABLE budgets_delivery IN SHARE MODE")
        workers = [worker(organization), worker(organization)]
        until("both workers wait", lambda: waiting() == 2)
        workers[0].kill()
        workers[0].communicate(timeout=60)
        assert Alert.objects.count() == 0, "nothing is told half"
    made = workers[1].communicate(timeout=60)[0]
    assert made.strip() == "1"
    assert budget.alerts.count() == Delivery.objects.count() == 1
    after = worker(organization)
    assert after.communicate(timeout=60)[0].strip() == "0", "a restarted worker tells nothing again"
    assert Delivery.objects.count() == 1
