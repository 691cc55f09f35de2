"""What the commands of this room share: finding by name what a person typed."""

from django.core.management.base import CommandError

from costwatch.accounts.models import Organization, Team


def organization_named(name: str) -> Organization:
    try:
        return Organization.objects.get(name=name)
    except Organization.DoesNotExist:
        known = ", ".join(repr(o.name) for o in Organization.objects.order_by("name")[:20])
        raise CommandError(f"no organization {name!r}; there are: {known or 'none'}") from None


def team_named(organization: Organization, slug: str) -> Team:
    try:
        return Team.objects.get(organization=organization, slug=slug)
    except Team.DoesNotExist:
        known = ", ".join(organization.teams.values_list("slug", flat=True))
        raise CommandError(
            f"no team {slug!r} in {organization.name!r}; there are: {known or 'none'}"
        ) from None
