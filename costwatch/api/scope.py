"""Which organization a request is about: the one place where a resource learns it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.views import APIView

from costwatch.accounts.memberships import (
    ORGANIZATION_KEY,
    memberships_of,
    of_organization,
    shown,
)
from costwatch.accounts.models import ApiToken, AuditEvent, Membership, Organization, User


class OrganizationView(APIView):
    """A resource of one organization: the token's, or the one that the session shows.

    Every resource derives from it; IsMember lets nobody into one that does not.
    """

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        for name, values in request.query_params.lists():
            for value in values:
                if "\0" in value:  # Postgres holds no such text, so no row can match it
                    raise ValidationError(
                        {name: [f"{value!r}: expected text without NUL characters"]}
                    )

    @cached_property
    def membership(self) -> Membership | None:
        """The caller's part in the organization; None for someone who has none, or no longer."""
        user = self.request.user
        if not isinstance(user, User):
            return None
        memberships = memberships_of(user)
        if isinstance(self.request.auth, ApiToken):
            return of_organization(memberships, self.request.auth.organization_id)
        return shown(memberships, self.request.session.get(ORGANIZATION_KEY))

    @property
    def organization(self) -> Organization:
        assert self.membership is not None, "IsMember let somebody in without a membership"
        return self.membership.organization

    @property
    def user(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    def record(self, action: str, target: object, details: dict[str, Any]) -> None:
        """Write down who changed what that money depends on."""
        AuditEvent.objects.create(
            organization=self.organization,
            actor=self.user,
            action=action,
            target=str(target)[:200],
            details=details,
        )
