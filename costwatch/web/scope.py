"""Which organization a page is about: the one door through which every page learns it.

A page is a function (request, scope, **ids). It is put under an address with page(), which finds the scope from the
person's memberships or lets nobody in; so a page without a scope can't be written by forgetting something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path
from django.utils import timezone

from costwatch.accounts.memberships import ORGANIZATION_KEY, memberships_of, shown
from costwatch.accounts.models import AuditEvent, Membership, Organization, User


@dataclass(frozen=True, slots=True)
class Scope:
    """Who looks at what. Every query of a page is about scope.organization."""

    user: User
    organization: Organization
    membership: Membership
    organizations: tuple[Organization, ...]  # all that the person belongs to, by name

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.organization.time_zone)

    @property
    def is_owner(self) -> bool:
        return self.membership.role == Membership.Role.OWNER

    @property
    def may_change_money(self) -> bool:
        return self.membership.may_change_money


class Needs(StrEnum):
    """What a page asks of a membership."""

    MEMBER = "to be a member"
    MONEY = "the role finance or owner"
    OWNER = "the role owner"

    def met_by(self, scope: Scope) -> bool:
        if self is Needs.OWNER:
            return scope.is_owner
        return self is Needs.MEMBER or scope.may_change_money


Page = Callable[..., HttpResponse]


def page(route: str, view: Page, *, name: str, needs: Needs = Needs.MEMBER) -> URLPattern:
    """An address that shows `view` to members of an organization, in its time zone."""

    @wraps(view)
    def scoped(request: HttpRequest, **ids: Any) -> HttpResponse:
        scope = scope_of(request)
        if scope is None:
            return render(request, "web/no_organization.html", status=403)
        if not needs.met_by(scope):
            raise PermissionDenied(
                f"This needs {needs.value}; yours is {scope.membership.get_role_display().lower()}."
            )
        with timezone.override(scope.zone):
            try:
                _refuse_unstorable(request)
                return view(request, scope, **ids)
            except BadRequest as error:
                return show(request, scope, "400.html", 400, exception=error)

    guarded = login_required(scoped)
    guarded.scoped = True  # type: ignore[attr-defined]  # the tests ask every address for it
    return path(route, guarded, name=name)


def _refuse_unstorable(request: HttpRequest) -> None:
    """Raises BadRequest for text that Postgres can't hold, so that no row can match it."""
    for asked in (request.GET, request.POST):
        for name, values in asked.lists():
            if any("\0" in value for value in values):
                raise BadRequest(f"{name!r} holds a NUL character; expected text without one")


def scope_of(request: HttpRequest) -> Scope | None:
    """The organization that the person chose, else the first by name; None for someone who belongs to none."""
    assert isinstance(request.user, User)
    memberships = memberships_of(request.user)
    membership = shown(memberships, request.session.get(ORGANIZATION_KEY))
    if membership is None:
        return None
    return Scope(
        request.user,
        membership.organization,
        membership,
        tuple(m.organization for m in memberships),
    )


def show(
    request: HttpRequest, scope: Scope, template: str, status: int = 200, **context: Any
) -> HttpResponse:
    """A page from a template, which always has the scope."""
    return render(request, template, {"scope": scope, **context}, status=status)


def record(scope: Scope, action: str, target: object, **details: Any) -> None:
    """Write down who changed what that money depends on."""
    AuditEvent.objects.create(
        organization=scope.organization,
        actor=scope.user,
        action=action,
        target=str(target)[:200],
        details=details,
    )
