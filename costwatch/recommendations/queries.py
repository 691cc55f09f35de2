"""What pages and the API read."""

from django.db.models import QuerySet

from costwatch.accounts.models import Organization
from costwatch.recommendations.models import Recommendation


def recommendations(
    organization: Organization, *, dismissed: bool = False
) -> QuerySet[Recommendation]:
    """What pays first, by what it saves at most; then what does not pay yet."""
    status = Recommendation.Status.DISMISSED if dismissed else Recommendation.Status.OPEN
    return Recommendation.objects.filter(organization=organization, status=status).select_related(
        "source", "team", "offering"
    )
