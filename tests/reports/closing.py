"""Months that are used and closed, for tests."""

from __future__ import annotations

from datetime import UTC, datetime

import time_machine

from costwatch.accounts.models import Organization
from costwatch.reports import close
from costwatch.reports.models import Closing

OCTOBER = datetime(2026, 10, 12, 9, tzinfo=UTC)  # an hour in it
NOVEMBER = datetime(2026, 11, 3, 15, tzinfo=UTC)
IN_NOVEMBER = datetime(2026, 11, 5, 8, tzinfo=UTC)  # when October is closed
IN_DECEMBER = datetime(2026, 12, 4, 8, tzinfo=UTC)


def closed(organization: Organization, name: str, now: datetime = IN_NOVEMBER) -> Closing:
    with time_machine.travel(now, tick=False):
        close.review(organization, name, None)
        return close.close(organization, name, None)
