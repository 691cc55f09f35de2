"""Whether what was used has had its prices looked up."""

from costwatch.accounts.models import Organization
from costwatch.attribution.models import Offering
from costwatch.pricing.models import RateBuild


def is_pending(organization: Organization) -> bool:
    """Whether there are offerings that the rates do not know yet.

    Usage shows as soon as it is added up; a worker looks the prices of what is new in it up right after that. In
    between, its cost is not known, but nobody may say that it has no price.
    """
    built = RateBuild.objects.filter(organization=organization).first()
    used = Offering.objects.filter(organization=organization).count()
    return built is None or built.offerings != used
