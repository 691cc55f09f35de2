from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from costwatch.accounts.models import ApiToken, Membership, Organization, User
from tests.factories import NOON, MembershipFactory
from tests.web.scenery import furnish


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Settings) -> None:
    """The real hash is slow on purpose."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _nobody_has_asked_yet() -> None:
    """Throttles count in the cache, by ids that come again after a rollback."""
    cache.clear()


@pytest.fixture
def furnished(organization: Organization) -> Iterator[Organization]:
    """At noon of a Friday, with the use of two days."""
    with time_machine.travel(NOON):
        furnish(organization, NOON, days=2)
        yield organization


class Reader:
    """Asks the API with a token."""

    def __init__(self, secret: str) -> None:
        self.client = Client(headers={"Authorization": f"Bearer {secret}"})

    def get(self, path: str, **asked: Any) -> Any:
        """The JSON of a 200."""
        answer = self.client.get(f"/api/v1/{path}", asked)
        assert answer.status_code == 200, answer.getvalue()
        return json.loads(answer.getvalue())

    def refused(self, path: str, **asked: Any) -> dict[str, Any]:
        """The JSON of a 400."""
        answer = self.client.get(f"/api/v1/{path}", asked)
        assert answer.status_code == 400, answer.getvalue()
        return dict(answer.json())

    def send(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = getattr(self.client, method)(
            f"/api/v1/{path}", body, content_type="application/json"
        )
        return answer.status_code, answer.json() if answer.content else None


def reader_for(user: User, organization: Organization) -> Reader:
    _, secret = ApiToken.issue(organization=organization, user=user, name="tests")
    return Reader(secret)


@pytest.fixture
def reader(member: User, organization: Organization) -> Reader:
    return reader_for(member, organization)


@pytest.fixture
def finance(organization: Organization) -> Reader:
    membership = MembershipFactory(organization=organization, role=Membership.Role.FINANCE)
    return reader_for(membership.user, organization)
