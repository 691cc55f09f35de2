"""Whether prompts and answers are stored, and for how long: the organization's own choice."""

from __future__ import annotations

import logging
from functools import partial

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods
from kombu.exceptions import OperationalError as BrokerError

from costwatch.attribution.content import MOST_BYTES, set_retention
from costwatch.attribution.tasks import delete_past_content
from costwatch.web.forms import ContentForm
from costwatch.web.scope import Scope, record, show

logger = logging.getLogger(__name__)


@require_http_methods(["GET", "POST"])
def change(request: HttpRequest, scope: Scope) -> HttpResponse:
    form = ContentForm(request.POST or None, stored_days=scope.organization.content_retention_days)
    if request.method == "POST" and form.is_valid():
        messages.success(request, _changed(scope, form.retention_days))
        return redirect("settings")
    status = 400 if form.errors else 200
    context = {"form": form, "most_bytes": MOST_BYTES}
    return show(request, scope, "web/settings/content.html", status, **context)


def _changed(scope: Scope, days: int | None) -> str:
    """Store content for so many days from now on; returns what to tell the person."""
    with transaction.atomic():
        before, now = set_retention(scope.organization.pk, days)
        if before == now:
            return "Nothing was changed."
        record(
            scope,
            "content.retention_changed",
            scope.organization,
            content_retention_days=now,
            content_retention_days_before=before,
        )
        transaction.on_commit(partial(_ask_to_delete, scope.organization.pk))
    if now is None:
        return (
            "Saved. Prompts and answers are no longer stored, and what was stored is being deleted."
        )
    return f"Saved. Prompts and answers of calls are stored, and deleted after {now} days."


def _ask_to_delete(organization_id: int) -> None:
    try:
        delete_past_content.delay(organization_id)
    except BrokerError as error:
        logger.warning("the broker cannot be reached, beat will delete what is past: %s", error)
