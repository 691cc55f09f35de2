"""The tree of teams."""

from collections import defaultdict

from costwatch.accounts.models import Team


def team_subtree(team: Team) -> frozenset[int]:
    """Ids of a team and of all teams below it."""
    children: dict[int | None, list[int]] = defaultdict(list)
    of_organization = Team.objects.filter(organization_id=team.organization_id)
    for pk, parent_id in of_organization.values_list("pk", "parent_id"):
        children[parent_id].append(pk)
    found: set[int] = set()
    waiting = [team.pk]
    while waiting:
        pk = waiting.pop()
        if pk not in found:  # a tree that was edited into a circle ends here
            found.add(pk)
            waiting += children[pk]
    return frozenset(found)
