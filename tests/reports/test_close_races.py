"""Two people close the same month at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import time_machine
from django.db import connection

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.reports import close
from costwatch.reports.models import Closing
from tests.pricing.usage import offering, source, used
from tests.reports.closing import IN_NOVEMBER, OCTOBER


@pytest.mark.django_db(transaction=True)
def test_two_who_close_a_month_at_once_get_the_same_closing(organization: Organization) -> None:
    used(source(organization), offering(organization), OCTOBER, output_tokens=1)

    def close_it(_: int) -> int:
        try:
            return close.close(organization, "2026-10", None).pk
        finally:
            connection.close()  # a thread has its own

    with time_machine.travel(IN_NOVEMBER, tick=False):
        close.review(organization, "2026-10", None)
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(close_it, range(4)))
    assert found == {Closing.objects.get().pk}
    assert AuditEvent.objects.filter(action="month.closed").count() == 1
