from __future__ import annotations

from collections.abc import Iterator

import pytest
import time_machine
from django.test import Client
from pytest_django import Settings

from costwatch.accounts.models import Organization, User
from tests.factories import NOON
from tests.web.scenery import furnish

# What only a member of the furnished organization may read: names of its teams, features, models, tags.
ITS_WORDS = (
    "Chat assistant",
    "chat-assistant",
    "Summaries",
    "support chat",
    "inbox routing",
    "claude-sonnet-4-5",
    "ranker-7b",
    "Secret budget",
    "Secret advice",
    "Secret key",
    "Secret token",
    "secret pattern",
)


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Settings) -> None:
    """The real hash is slow on purpose."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def furnished(organization: Organization) -> Iterator[Organization]:
    """At noon of a Friday, with the use of two days: what pages show does not depend on when tests run."""
    with time_machine.travel(NOON):
        key = furnish(organization, NOON, days=2)
        key.name = "Secret key"
        key.save()
        yield organization


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def owner_client(owner: User) -> Client:
    return client_of(owner)


@pytest.fixture
def member_client(member: User) -> Client:
    return client_of(member)
