"""What providers billed beside what was metered, and why it differs; bills are fetched and taken by finance and owners.

Days are UTC's, as providers bill, whatever the organization's time zone is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from collectors.providers.files import BadFile
from costwatch.domain.reconciliation import Cause
from costwatch.reports import bill_fetches, bills
from costwatch.reports.bill_models import BillFetch, ProviderAccount
from costwatch.reports.bill_projects import billed_projects, link
from costwatch.reports.reconcile import Row, reconcile, summed
from costwatch.web.bill_forms import BillFileForm, ProjectForm
from costwatch.web.months import Month, month_shown
from costwatch.web.scope import Scope, record, show

# What a cause is called, and what it says.
CAUSES = {
    Cause.NOT_METERED: ("not metered", "billed, and no telemetry said so"),
    Cause.NOT_BILLED: ("not billed", "metered, and not on these bills: of another account, or free"),
    Cause.UNPRICED: ("no price", "metered, and no price is known"),
    Cause.WRONG_TIER: ("another tier", "batch, flex, long context …: metered at one, billed at another"),
    Cause.PRICE: ("another price", "the same tokens, at another price than the one that is set"),
    Cause.ROUNDING: ("rounding", "less than the bill's own places can say"),
    Cause.LATE: ("late", "the bill came before its day was settled, and will be fetched again"),
    Cause.UNEXPLAINED: ("not told", "the bill says no quantity, so it can't be taken apart"),
}  # fmt: skip
_ASKED = ("provider", "project", "model")
_SHOWN_PROJECTS = 100


@dataclass(frozen=True, slots=True)
class CauseShown:
    name: str
    says: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class RowShown:
    row: Row
    causes: tuple[CauseShown, ...]
    asked: str  # the part of this page's address that shows its days

    @property
    def coverage(self) -> Decimal | None:
        """A fraction of 1."""
        percent = self.row.coverage_percent
        return None if percent is None else percent / 100


@dataclass(frozen=True, slots=True)
class AccountShown:
    account: ProviderAccount
    last: BillFetch | None


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    month = month_shown(request, scope.organization)
    first, last = _days_of(month)
    found = reconcile(scope.organization, first, last)
    asked = {name: request.GET[name] for name in _ASKED if name in request.GET}
    chosen = [row for row in found.rows if _is_asked(row, asked)]
    if asked and not chosen:
        raise Http404
    return show(
        request,
        scope,
        "web/reconciliation/index.html",
        month=month,
        beside_month=f"&{urlencode(asked)}" if asked else "",
        asked=asked,
        total=_shown(summed(chosen, ())[0] if asked else found.total, month),
        rows=[
            _shown(row, month)
            for row in summed(chosen, ("day",) if asked else ("provider", "project", "model"))
        ],
        found=found,
        accounts=_accounts(scope),
        projects=billed_projects(scope.organization, first, last)[:_SHOWN_PROJECTS],
        form=ProjectForm(organization=scope.organization),
        currency=found.currency,
    )


def _days_of(month: Month) -> tuple[date, date]:
    """The month's days as they are called, of UTC."""
    first = date.fromisoformat(f"{month.name}-01")
    following = (first + timedelta(days=31)).replace(day=1)
    return first, following - timedelta(days=1)


def _is_asked(row: Row, asked: dict[str, str]) -> bool:
    return all(getattr(row.key, name) == value for name, value in asked.items())


def _shown(row: Row, month: Month) -> RowShown:
    key = row.key
    asked = {"month": month.name, **{name: getattr(key, name) for name in _ASKED}}
    return RowShown(
        row,
        tuple(CauseShown(*CAUSES[cause], amount) for cause, amount in row.causes.items()),
        urlencode(asked),
    )


def _accounts(scope: Scope) -> list[AccountShown]:
    rows = ProviderAccount.objects.filter(organization=scope.organization)
    return [AccountShown(row, row.fetches.first()) for row in rows]


@require_POST
def fetch(request: HttpRequest, scope: Scope) -> HttpResponse:
    """All accounts' bills once more."""
    now = timezone.now()
    accounts = ProviderAccount.objects.filter(organization=scope.organization, active=True)
    for account in accounts:
        bill_fetches.again(account, now)
        record(scope, "bills.fetched", account)
    messages.success(request, "Bills are fetched within a minute or two; load this page again.")
    return redirect("statements-reconciliation")


@require_http_methods(["GET", "POST"])
def upload(request: HttpRequest, scope: Scope) -> HttpResponse:
    sent = request.method == "POST"
    form = BillFileForm(*((request.POST, request.FILES) if sent else ()))
    context: dict[str, Any] = {"form": form, "bad_rows": ()}
    if sent and form.is_valid():
        try:
            taken = _taken(scope, form)
        except BadFile as error:
            form.add_error("parts", str(error))
            context["bad_rows"] = error.rows
        except bills.TooLong as error:
            form.add_error("parts", str(error))
        else:
            messages.success(request, _said(taken))
            return redirect("statements-reconciliation")
    return show(
        request, scope, "web/reconciliation/upload.html", 400 if form.errors else 200, **context
    )


def _taken(scope: Scope, form: BillFileForm) -> bills.Taken:
    files = form.cleaned_data["parts"]
    return bills.take_files(
        scope.organization,
        files,
        source=str(files[0].name),
        now=timezone.now(),
        actor=scope.user,
        most_bytes=bills.MOST_UNPACKED_BYTES,
    )


def _said(taken: bills.Taken) -> str:
    kept = [
        f"{bill.provider}: {bill.lines:,} lines of {bill.days} days"
        + (f", {bill.replaced} of which took the place of older ones" if bill.replaced else "")
        for bill in taken.bills
    ]
    others = _listed(f"{name or 'no service'} ({rows:,})" for name, rows in taken.left_out)
    said = f"Taken from {taken.rows:,} rows: {_listed(kept) or 'nothing'}."
    return f"{said} Left out, since they run no models: {others}." if others else said


def _listed(words: Iterable[str]) -> str:
    return "; ".join(words)


@require_POST
def project(request: HttpRequest, scope: Scope) -> HttpResponse:
    """Say which key sends for a project."""
    form = ProjectForm(request.POST, organization=scope.organization)
    if not form.is_valid():
        errors = _listed(str(error) for errors in form.errors.values() for error in errors)
        messages.error(request, f"Not saved: {errors}")
    else:
        said = form.cleaned_data
        link(scope.organization, said["provider"], said["project"], said["key"], scope.user)
        messages.success(
            request,
            f"What {said['key']} sends of {said['provider']} is compared with "
            f"{said['project'] or 'what no key is linked to'} now.",
        )
    return redirect("statements-reconciliation")
