"""Which organization a request is about: the one place where a resource learns it."""

from __future__ import annotations

from functools import cached_property

from rest_framework.views import APIView

from costwatch.accounts.models import ApiToken, Membership, Organization, User

ORGANIZATION_KEY = "organization_id"  # in the session: what the pages show


class OrganizationView(APIView):
    """A resource of one organization: the token's, or the one that the session shows.

    Every resource derives from it; IsMember lets nobody into one that does not.
    """

    @cached_property
    def membership(self) -> Membership | None:
        """The caller's part in the organization; None for someone who has none, or no longer."""
        user = self.request.user
        if not isinstance(user, User):
            return None
        memberships = Membership.objects.filter(user=user).select_related("organization")
        if isinstance(self.request.auth, ApiToken):
            return memberships.filter(organization_id=self.request.auth.organization_id).first()
        chosen = self.request.session.get(ORGANIZATION_KEY) or 0
        return (
            memberships.filter(organization_id=chosen).first()
            or memberships.order_by("organization__name").first()
        )

    @property
    def organization(self) -> Organization:
        assert self.membership is not None, "IsMember let somebody in without a membership"
        return self.membership.organization

    @property
    def user(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user
