"""Which organization a person is shown: the one chosen in the session, else the first by name."""

from collections.abc import Sequence

from costwatch.accounts.models import Membership, User

ORGANIZATION_KEY = "organization_id"  # in the session


def memberships_of(user: User) -> list[Membership]:
    """A person's parts in organizations, by their names."""
    return list(
        Membership.objects.filter(user=user)
        .select_related("organization")
        .order_by("organization__name")
    )


def of_organization(
    memberships: Sequence[Membership], organization_id: int | None
) -> Membership | None:
    return next((m for m in memberships if m.organization_id == organization_id), None)


def shown(memberships: Sequence[Membership], chosen: int | None) -> Membership | None:
    """The chosen one if the person is still in it; None for someone who belongs to none."""
    return of_organization(memberships, chosen) or next(iter(memberships), None)
