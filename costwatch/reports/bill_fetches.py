"""Bills on their way in: planned once a day and account, tried until they are here or can't be had, and written down.

Fetching the same days twice keeps them once, so two workers at the same fetch do no harm; a fetch whose worker died is
tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import F

from collectors.providers import anthropic, openai
from collectors.providers.lines import BillLine
from collectors.providers.reports import Api, CannotFetch
from costwatch import env
from costwatch.reports import bills
from costwatch.reports.bill_models import BillFetch, ProviderAccount

_FIRST_DAYS = 62  # of an account that nothing was fetched of: this month and the last one
_CLAIM = timedelta(minutes=15)  # longer than a fetch takes
_FIRST_PAUSE = timedelta(minutes=1)  # doubled after each attempt
_LONGEST_PAUSE = timedelta(hours=2)
MOST_ATTEMPTS = 16  # about a day; then the next day's fetch has the same days


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider whose bills can be fetched."""

    name: str
    api: Callable[..., Api]
    bill: Callable[[Api, date, date], list[BillLine]]
    key_hint: str


PROVIDERS = {
    module.PROVIDER: Provider(name, module.api, module.bill, module.KEY_HINT)
    for module, name in ((openai, "OpenAI"), (anthropic, "Anthropic"))
}


def plan(account: ProviderAccount, now: datetime, *, days: int | None = None) -> BillFetch:
    """Today's fetch of an account: of so many days up to yesterday. Planned twice, it is the same one.

    days   None: as many as the settings say, and more the first time.
    """
    today = now.astimezone(UTC).date()
    if days is None:
        has_any = account.fetches.filter(state=BillFetch.State.DONE).exists()
        days = settings.BILL_DAYS if has_any else max(_FIRST_DAYS, settings.BILL_DAYS)
    planned, _ = BillFetch.objects.get_or_create(
        account=account,
        planned_for=today,
        defaults={
            "first_day": today - timedelta(days=days),
            "last_day": today - timedelta(days=1),
            "next_attempt_at": now,
        },
    )
    return planned


@transaction.atomic
def again(account: ProviderAccount, now: datetime, *, days: int | None = None) -> BillFetch:
    """Today's fetch once more, at once, whatever became of it."""
    fetch = BillFetch.objects.select_for_update().get(pk=plan(account, now, days=days).pk)
    if days is not None:
        fetch.first_day = fetch.last_day - timedelta(days=days - 1)
    fetch.state, fetch.ended_at, fetch.attempts = BillFetch.State.PENDING, None, 0
    fetch.next_attempt_at, fetch.last_error = now, ""
    fetch.save()
    return fetch


def due(now: datetime) -> list[int]:
    """Ids of fetches to try, the oldest first."""
    pending = BillFetch.objects.filter(
        state=BillFetch.State.PENDING, next_attempt_at__lte=now, account__active=True
    )
    return list(pending.order_by("next_attempt_at", "id").values_list("id", flat=True))


def fetch(fetch_id: int, now: datetime, **how: Any) -> None:
    """Try a fetch that is pending and due. Of two at a time one claims it; how is for its Api."""
    claimed = BillFetch.objects.filter(
        pk=fetch_id, state=BillFetch.State.PENDING, next_attempt_at__lte=now
    ).update(next_attempt_at=now + _CLAIM, attempts=F("attempts") + 1)
    if not claimed:
        return
    found = BillFetch.objects.select_related("account__organization").get(pk=fetch_id)
    try:
        lines = _lines(found, **how)
    except CannotFetch as error:
        _postpone(found, error, now)
    else:
        _keep(found, lines, now)
    found.save(update_fields=["state", "ended_at", "lines", "last_error", "next_attempt_at"])


def _lines(found: BillFetch, **how: Any) -> list[BillLine]:
    """Raises CannotFetch."""
    account = found.account
    provider = PROVIDERS[account.provider]
    api = provider.api(key_of(account), settings.PROVIDER_URLS[account.provider], **how)
    return provider.bill(api, found.first_day, found.last_day)


def key_of(account: ProviderAccount) -> str:
    """From the environment, or the file that it names. Raises CannotFetch."""
    try:
        key = env.text(account.key_variable).strip()
    except ImproperlyConfigured as error:
        raise CannotFetch(str(error), permanent=False) from None
    if not key:
        raise CannotFetch(
            f"{account.key_variable} is not set where the workers run; expected "
            f"{PROVIDERS[account.provider].key_hint}, there or in the file that {account.key_variable}_FILE names",
            permanent=False,  # whoever sets it need not come here to say so
        )
    return key


def _keep(found: BillFetch, lines: list[BillLine], now: datetime) -> None:
    account = found.account
    days = [
        found.first_day + timedelta(days=n)
        for n in range((found.last_day - found.first_day).days + 1)
    ]
    kept = bills.keep(
        account.organization,
        account.provider,
        account.name,
        days,
        lines,
        source=f"{PROVIDERS[account.provider].name}'s API",
        now=now,
    )
    found.state, found.ended_at, found.last_error = BillFetch.State.DONE, now, ""
    found.lines = kept.lines


def _postpone(found: BillFetch, error: CannotFetch, now: datetime) -> None:
    found.last_error = str(error)
    if error.permanent or found.attempts >= MOST_ATTEMPTS:
        found.state, found.ended_at = BillFetch.State.FAILED, now
    pause = min(_FIRST_PAUSE * 2 ** min(found.attempts - 1, 10), _LONGEST_PAUSE)
    if error.retry_after_seconds is not None:
        asked = timedelta(seconds=min(error.retry_after_seconds, _LONGEST_PAUSE.total_seconds()))
        pause = max(pause, asked)
    found.next_attempt_at = now + pause
