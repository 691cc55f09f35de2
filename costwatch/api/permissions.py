"""Who may ask: members read; finance and owners change what money depends on, owners what is sent with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from costwatch.accounts.models import Membership

if TYPE_CHECKING:  # APIView itself imports this module, for its defaults
    from rest_framework.views import APIView


class IsMember(BasePermission):
    """Lets nobody into a view that has no membership, so every resource is an OrganizationView."""

    message = "you are not a member of this organization (any more); ask an owner"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return _membership(view) is not None


class MayChangeMoney(IsMember):
    """Members read; only finance and owners write."""

    message = "changing this needs the role finance or owner"

    def has_permission(self, request: Request, view: APIView) -> bool:
        membership = _membership(view)
        if membership is None:
            return False
        return request.method in SAFE_METHODS or membership.may_change_money


class MayChangeKeys(IsMember):
    """Members read; only owners write."""

    message = "changing this needs the role owner"

    def has_permission(self, request: Request, view: APIView) -> bool:
        membership = _membership(view)
        if membership is None:
            return False
        return request.method in SAFE_METHODS or membership.role == Membership.Role.OWNER


def _membership(view: APIView) -> Membership | None:
    return getattr(view, "membership", None)
