"""Assignment rules: listed for everybody; made, changed, moved and deleted by finance and owners.

Nothing is saved before its effect was shown: a form is sent to be previewed, and then, unchanged, to be saved.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from costwatch.accounts.models import AuditEvent
from costwatch.attribution.assignment import PATTERNS
from costwatch.attribution.models import AssignmentRule, SourceTeam
from costwatch.attribution.rules import Direction, moved, recorded, reorder, rules_of
from costwatch.reports.preview import (
    preview_of_deleting,
    preview_of_moving,
    preview_of_saving,
)
from costwatch.web.forms import RuleForm
from costwatch.web.previews import digest_of
from costwatch.web.scope import Scope, record, show

_SHOWN_EVENTS = 20
_PREFILLED = (*PATTERNS, "key", "team", "priority")


@require_GET
def index(request: HttpRequest, scope: Scope) -> HttpResponse:
    events = AuditEvent.objects.filter(
        organization=scope.organization, action__startswith="assignment_rule."
    )
    counts = _sources_by_rule(scope)
    rules = rules_of(scope.organization)
    return show(
        request,
        scope,
        "web/rules/index.html",
        rules=[(rule, counts.get(rule.pk, 0)) for rule in rules],
        events=[
            (event, _told(event.details))
            for event in events.select_related("actor").order_by("-at", "-pk")[:_SHOWN_EVENTS]
        ],
        now=timezone.now(),
    )


def _told(details: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What an event of the audit log says: names with what they were, of a change, and what they became."""
    if "after" not in details:
        return [(name, None, details[name]) for name in sorted(details, key=_place)]
    before, after = details["before"], details["after"]
    return [
        (name, before.get(name, "none"), after.get(name, "none"))
        for name in sorted(before.keys() | after.keys(), key=_place)
        if before.get(name) != after.get(name)
    ]


def _place(name: str) -> tuple[int, str]:
    """In the order in which the form asks, whatever the database made of it."""
    fields = RuleForm.Meta.fields
    return (fields.index(name) if name in fields else len(fields)), name


def _sources_by_rule(scope: Scope) -> dict[int, int]:
    """How many sources each rule decides now."""
    now = timezone.now()
    decided = SourceTeam.objects.filter(
        Q(valid_from=None) | Q(valid_from__lte=now),
        Q(valid_until=None) | Q(valid_until__gt=now),
        organization=scope.organization,
        rule__isnull=False,
    )
    return dict(decided.values_list("rule").annotate(Count("source", distinct=True)).order_by())


@require_http_methods(["GET", "POST"])
def create(request: HttpRequest, scope: Scope) -> HttpResponse:
    """A new rule; its address may say what it starts with."""
    return _edit(request, scope, None)


@require_http_methods(["GET", "POST"])
def change(request: HttpRequest, scope: Scope, rule_id: int) -> HttpResponse:
    return _edit(request, scope, _rule(scope, rule_id))


def _rule(scope: Scope, rule_id: int) -> AssignmentRule:
    found = AssignmentRule.objects.filter(organization=scope.organization)
    return get_object_or_404(found.select_related("team", "key"), pk=rule_id)


def _edit(request: HttpRequest, scope: Scope, rule: AssignmentRule | None) -> HttpResponse:
    before = recorded(rule) if rule else {}
    initial = {name: request.GET[name] for name in _PREFILLED if request.GET.get(name)}
    form = RuleForm(
        request.POST or None, instance=rule, initial=initial, organization=scope.organization
    )
    asked = request.POST if request.method == "POST" else request.GET
    back = "unattributed" if asked.get("back") == "unattributed" else ""
    context: dict[str, Any] = {"form": form, "rule": rule, "back": back}
    if request.method == "POST" and form.is_valid():
        wanted = recorded(form.instance)
        digest = digest_of(wanted)
        if request.POST.get("previewed") == digest:
            _save(scope, form, before)
            messages.success(request, "Saved, and applied to all months that are not closed.")
            return redirect("sources-unattributed" if back else "sources-rules")
        context |= {
            "preview": preview_of_saving(scope.organization, form.instance),
            "digest": digest,
        }
    return show(request, scope, "web/rules/edit.html", 400 if form.errors else 200, **context)


def _save(scope: Scope, form: RuleForm, before: dict[str, Any]) -> None:
    with transaction.atomic():
        saved = form.save()
        after = recorded(saved)
        if before:
            record(scope, "assignment_rule.changed", saved, before=before, after=after)
        else:
            record(scope, "assignment_rule.created", saved, **after)


@require_http_methods(["GET", "POST"])
def move(request: HttpRequest, scope: Scope, rule_id: int) -> HttpResponse:
    """A place up or down; asked with GET, what that would move."""
    rule = _rule(scope, rule_id)
    asked = request.POST if request.method == "POST" else request.GET
    direction: Direction = "down" if asked.get("direction") == "down" else "up"
    if request.method == "POST":
        with transaction.atomic():
            ordered = moved(rules_of(scope.organization), rule, direction)
            reorder(scope.organization, ordered)
            place = [one.pk for one in ordered].index(rule.pk) + 1
            record(scope, "assignment_rule.moved", rule, direction=direction, place=place)
        messages.success(request, f"Rule moved: it is asked as number {place} now.")
        return redirect("sources-rules")
    return show(
        request,
        scope,
        "web/rules/confirm.html",
        rule=rule,
        direction=direction,
        preview=preview_of_moving(scope.organization, rule, direction),
    )


@require_http_methods(["GET", "POST"])
def delete(request: HttpRequest, scope: Scope, rule_id: int) -> HttpResponse:
    """Asked with GET, what that would move."""
    rule = _rule(scope, rule_id)
    if request.method == "POST":
        with transaction.atomic():
            record(scope, "assignment_rule.deleted", rule, **recorded(rule))
            rule.delete()
        messages.success(request, f"The rule of {rule.team} is deleted.")
        return redirect("sources-rules")
    preview = preview_of_deleting(scope.organization, rule)
    return show(request, scope, "web/rules/confirm.html", rule=rule, preview=preview)
