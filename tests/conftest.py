import pytest

from costwatch.accounts.models import Membership, Organization, User
from costwatch.attribution import content, dimensions, partitions, profiles, spanned
from tests.factories import MembershipFactory, OrganizationFactory


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """What a process remembers of rows is wrong once a test's transaction is rolled back."""
    partitions.forget_made()
    dimensions.forget_ids()
    profiles.forget()
    content.forget_chosen()
    spanned.forget()


@pytest.fixture
def organization(db: None) -> Organization:
    return OrganizationFactory(name="Acme")


@pytest.fixture
def owner(organization: Organization) -> User:
    """May do everything in the organization."""
    return MembershipFactory(organization=organization, role=Membership.Role.OWNER).user


@pytest.fixture
def member(organization: Organization) -> User:
    """May read."""
    return MembershipFactory(organization=organization).user


@pytest.fixture
def stranger(db: None) -> User:
    """Owner of another organization, who must see nothing of this one."""
    other = OrganizationFactory(name="Elsewhere")
    return MembershipFactory(organization=other, role=Membership.Role.OWNER).user
