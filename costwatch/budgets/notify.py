"""Alerts on their way out. A delivery is locked while it is tried, and what was sent is never sent again."""

from __future__ import annotations

import smtplib
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.template.loader import render_to_string

from costwatch.budgets.models import Alert, Budget, Delivery
from costwatch.domain import money
from costwatch.domain.periods import Period, title_of

_FIRST_PAUSE = timedelta(seconds=30)  # doubled after each attempt
_LONGEST_PAUSE = timedelta(hours=1)
MOST_ATTEMPTS = 24  # about 17 hours: a night's outage of a mail server is outlasted


class TransportError(Exception):
    """An alert could not be handed over. permanent: trying again would not help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


@transaction.atomic
def deliver(delivery_id: int, now: datetime) -> None:
    """Try to send a delivery that is pending and due. Of two at a time one finds it locked and leaves it."""
    delivery = (
        Delivery.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related(
            "alert__budget__organization", "alert__budget__team", "alert__budget__source"
        )
        .filter(pk=delivery_id, state=Delivery.State.PENDING, next_attempt_at__lte=now)
        .first()
    )
    if delivery is None:
        return
    delivery.attempts += 1
    try:
        _send_mail(delivery)
    except TransportError as error:
        _postpone(delivery, error, now)
    else:
        delivery.state, delivery.sent_at, delivery.last_error = Delivery.State.SENT, now, ""
    delivery.save()


def due(now: datetime) -> list[int]:
    """Ids of deliveries to try, the oldest first."""
    pending = Delivery.objects.filter(state=Delivery.State.PENDING, next_attempt_at__lte=now)
    return list(pending.order_by("next_attempt_at", "id").values_list("id", flat=True))


def _postpone(delivery: Delivery, error: TransportError, now: datetime) -> None:
    delivery.last_error = str(error)
    if error.permanent or delivery.attempts >= MOST_ATTEMPTS:
        delivery.state = Delivery.State.FAILED
    pause = _FIRST_PAUSE * 2 ** min(delivery.attempts - 1, 10)
    delivery.next_attempt_at = now + min(pause, _LONGEST_PAUSE)


def _send_mail(delivery: Delivery) -> None:
    """Raises TransportError."""
    try:
        _mail(delivery).send()
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        raise _refused(code, said) from error
    except smtplib.SMTPAuthenticationError as error:
        # Ours to put right in the settings; then the mail should still go out.
        raise TransportError(f"mail server refused our login: {error}", permanent=False) from error
    except smtplib.SMTPResponseException as error:
        raise _refused(error.smtp_code, error.smtp_error) from error
    except (smtplib.SMTPException, OSError) as error:
        raise TransportError(f"mail server not reached: {error}", permanent=False) from error


def _refused(code: int, said: bytes | str) -> TransportError:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return TransportError(f"mail server answered {code} {text}", permanent=code >= 500)


def _mail(delivery: Delivery) -> EmailMultiAlternatives:
    context = _context(delivery.alert)
    mail = EmailMultiAlternatives(
        subject=" ".join(render_to_string("emails/budget_alert_subject.txt", context).split()),
        body=render_to_string("emails/budget_alert.txt", context),
        to=[delivery.address],
        # Of one delivery always the same: a mail program shows what came twice once.
        headers={"Message-ID": f"<costwatch-delivery-{delivery.pk}@{_host()}>"},
    )
    mail.attach_alternative(render_to_string("emails/budget_alert.html", context), "text/html")
    return mail


def _host() -> str:
    return str(settings.COSTWATCH_URL).split("://")[-1].split("/")[0].split(":")[0]


def _context(alert: Alert) -> dict[str, object]:
    budget = alert.budget
    zone = ZoneInfo(budget.organization.time_zone)
    return {
        "budget": budget,
        "who": scope_of(budget),
        "organization": budget.organization,
        "threshold": alert.threshold,
        "ahead": alert.basis == Alert.Basis.FORECAST,
        "spent": f"{shown(alert.spent)} {alert.currency}",
        "expected": f"{shown(alert.decisive)} {alert.currency}",
        "amount": f"{shown(alert.amount)} {alert.currency}",
        "percent": f"{money.rounded(money.EXACT.divide(alert.decisive * 100, alert.amount), 1)}",
        "period": title_of(Period(alert.period_start, alert.period_end), zone.key),
        "noticed_at": f"{alert.noticed_at.astimezone(zone):%Y-%m-%d %H:%M %Z}",
        "url": f"{settings.COSTWATCH_URL}/budgets/",
    }


def scope_of(budget: Budget) -> str:
    """For people: whose or what cost a budget is about."""
    who = budget.team.name if budget.team else budget.organization.name
    narrowed = [budget.feature, budget.model, budget.provider]
    source = budget.source.service_name or f"source {budget.source.pk}" if budget.source else ""
    return ", ".join([who, *(name for name in [*narrowed, source] if name)])


def shown(amount: Decimal) -> str:
    """For people: cents, and for what is less than one cent as many decimals as it takes to see something."""
    places = 2 if not amount or abs(amount) >= 1 else max(2, 1 - amount.adjusted())
    return f"{money.rounded(amount, places):,f}"
