"""Bills are fetched once a day, tried again, and written down; from a server that speaks the providers' protocols."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import time_machine
from celery import current_app
from pytest_django import Settings

from costwatch.accounts.models import Organization
from costwatch.reports import bill_fetches, tasks
from costwatch.reports.bill_models import (
    BillFetch,
    ProviderAccount,
    ProviderBill,
    ProviderBillLine,
)
from tests.collectors.providers.reporting import (
    ANTHROPIC_KEY,
    OPENAI_KEY,
    Fault,
    Provider,
    reporting,
)
from tests.collectors.providers.test_anthropic import COSTS as ANTHROPIC_COSTS
from tests.collectors.providers.test_anthropic import cost as anthropic_cost
from tests.collectors.providers.test_openai import COSTS, cost

NOW = datetime(2026, 11, 10, 5, 20, tzinfo=UTC)
PENDING, DONE, FAILED = BillFetch.State.PENDING, BillFetch.State.DONE, BillFetch.State.FAILED


@pytest.fixture
def provider(settings: Settings) -> Iterator[Provider]:
    with reporting() as found:
        settings.PROVIDER_URLS = {"openai": found.url, "anthropic": found.url}
        yield found


@pytest.fixture
def account(organization: Organization, monkeypatch: pytest.MonkeyPatch) -> ProviderAccount:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", OPENAI_KEY)
    return ProviderAccount.objects.create(
        organization=organization, provider="openai", name="main", key_variable="OPENAI_ADMIN_KEY"
    )


def fetched(account: ProviderAccount, now: datetime = NOW, **how: Any) -> BillFetch:
    planned = bill_fetches.plan(account, now)
    bill_fetches.fetch(planned.pk, now, sleep=lambda _: None, **how)
    planned.refresh_from_db()
    return planned


def test_a_fetch_keeps_the_bills_of_all_days_up_to_yesterday(
    account: ProviderAccount, provider: Provider, settings: Settings
) -> None:
    settings.BILL_DAYS = 14
    provider.has(COSTS, date(2026, 11, 9), cost("gpt-4o, output", 1, quantity=5, quantity_unit="tokens"))  # fmt: skip
    provider.has(COSTS, date(2026, 11, 10), cost("not over yet", 9))
    fetch = fetched(account)
    assert (fetch.state, fetch.attempts, fetch.lines, fetch.ended_at) == (DONE, 1, 1, NOW)
    assert (fetch.first_day, fetch.last_day) == (date(2026, 9, 9), date(2026, 11, 9))
    assert ProviderBill.objects.count() == 62
    assert ProviderBillLine.objects.get().amount == 1
    next_one = bill_fetches.plan(account, NOW + timedelta(days=1))
    assert next_one.first_day == date(2026, 10, 28)


def test_anthropics_bill_is_fetched_too(
    organization: Organization, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", ANTHROPIC_KEY)
    account = ProviderAccount.objects.create(
        organization=organization, provider="anthropic", name="main", key_variable="A_KEY"
    )
    provider.has(ANTHROPIC_COSTS, date(2026, 11, 9), anthropic_cost())
    assert fetched(account).state == DONE
    assert ProviderBillLine.objects.get().amount == Decimal("1.2378912")


def test_a_day_is_planned_once_and_fetched_once(
    account: ProviderAccount, provider: Provider
) -> None:
    assert fetched(account).pk == fetched(account).pk
    assert len(provider.asked) == 2  # 62 days in pages of 31
    assert BillFetch.objects.count() == 1


def test_a_busy_provider_is_asked_again_later(account: ProviderAccount, provider: Provider) -> None:
    provider.faults = [Fault(429, b"busy", {"retry-after": "600"})]
    fetch = fetched(account)
    assert (fetch.state, fetch.attempts, fetch.ended_at) == (PENDING, 1, None)
    assert "429" in fetch.last_error
    assert fetch.next_attempt_at == NOW + timedelta(seconds=600)
    assert bill_fetches.due(NOW + timedelta(seconds=599)) == []
    later = NOW + timedelta(seconds=600)
    assert bill_fetches.due(later) == [fetch.pk]
    bill_fetches.fetch(fetch.pk, later)
    fetch.refresh_from_db()
    assert (fetch.state, fetch.attempts, fetch.last_error) == (DONE, 2, "")


def test_a_refused_key_is_not_tried_again_until_tomorrow(
    account: ProviderAccount, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-ordinary")
    fetch = fetched(account)
    assert (fetch.state, fetch.ended_at) == (FAILED, NOW)
    assert "it takes an admin key" in fetch.last_error
    assert "sk-ordinary" not in fetch.last_error
    assert bill_fetches.due(NOW + timedelta(days=9)) == []
    assert not ProviderBill.objects.exists()


def test_a_key_that_is_not_there_is_asked_for_by_its_name(
    account: ProviderAccount, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_ADMIN_KEY")
    fetch = fetched(account)
    assert fetch.state == PENDING
    assert "OPENAI_ADMIN_KEY is not set where the workers run" in fetch.last_error
    assert provider.asked == []


def test_a_key_may_be_in_a_file(
    account: ProviderAccount,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("OPENAI_ADMIN_KEY")
    (tmp_path / "key").write_text(f"{OPENAI_KEY}\n")
    monkeypatch.setenv("OPENAI_ADMIN_KEY_FILE", str(tmp_path / "key"))
    assert fetched(account).state == DONE


def test_a_provider_that_is_never_there_is_given_up_with_what_it_said(
    account: ProviderAccount, provider: Provider
) -> None:
    now, fetch = NOW, bill_fetches.plan(account, NOW)
    provider.faults = [Fault(503, b"closed")] * 999
    while fetch.state == PENDING:
        bill_fetches.fetch(fetch.pk, now, sleep=lambda _: None, patience_seconds=0)
        fetch.refresh_from_db()
        now = fetch.next_attempt_at
    assert (fetch.state, fetch.attempts) == (FAILED, bill_fetches.MOST_ATTEMPTS)
    assert "503: closed" in fetch.last_error


def test_of_two_workers_one_fetches(account: ProviderAccount, provider: Provider) -> None:
    fetch = bill_fetches.plan(account, NOW)
    claimed = BillFetch.objects.filter(pk=fetch.pk)
    claimed.update(next_attempt_at=NOW + timedelta(minutes=15), attempts=1)
    bill_fetches.fetch(fetch.pk, NOW)
    assert provider.asked == []
    # The other one died: it is tried again.
    bill_fetches.fetch(fetch.pk, NOW + timedelta(minutes=15))
    assert claimed.get().state == DONE


@pytest.fixture
def at_once() -> Iterator[None]:
    """Tasks run where they are sent."""
    current_app.conf.task_always_eager = True
    current_app.conf.task_eager_propagates = True
    yield
    current_app.conf.task_always_eager = False
    current_app.conf.task_eager_propagates = False


def test_the_worker_fetches_each_account_once_a_day(
    account: ProviderAccount, provider: Provider, at_once: None
) -> None:
    sleeping = ProviderAccount.objects.create(
        organization=account.organization,
        provider="openai",
        name="old",
        key_variable="X",
        active=False,
    )
    with time_machine.travel(NOW, tick=False):
        for _ in range(2):
            tasks.plan_bill_fetches.delay()
            tasks.fetch_due_bills.delay()
    assert account.fetches.get().state == DONE
    assert len(provider.asked) == 2  # 62 days in pages of 31
    assert not sleeping.fetches.exists()


def test_a_fetch_whose_task_was_lost_is_found(
    account: ProviderAccount, provider: Provider, at_once: None
) -> None:
    with time_machine.travel(NOW, tick=False):
        fetch = bill_fetches.plan(account, NOW)
        tasks.fetch_due_bills.delay()
    fetch.refresh_from_db()
    assert fetch.state == DONE


def test_beat_knows_tasks_that_exist() -> None:
    assert {entry["task"] for entry in tasks.beat_schedule.values()} <= set(current_app.tasks)


def test_what_is_asked_for_again_is_fetched_again_at_once(
    account: ProviderAccount, provider: Provider
) -> None:
    provider.has(COSTS, date(2026, 11, 9), cost("gpt-4o, output", 1))
    fetched(account)
    provider.results.clear()
    provider.has(COSTS, date(2026, 11, 9), cost("gpt-4o, output", 2))
    later = NOW + timedelta(hours=1)
    fetch = bill_fetches.again(account, later, days=3)
    assert (fetch.first_day, fetch.attempts, fetch.state) == (date(2026, 11, 7), 0, PENDING)
    bill_fetches.fetch(fetch.pk, later)
    assert ProviderBillLine.objects.get().amount == 2
    assert BillFetch.objects.count() == 1
