from collections.abc import Iterator

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.test import Client

from costwatch.accounts.models import User
from costwatch.web.login import MAX_WRONG_TRIES

PASSWORD = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _nothing_counted() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def log_in(client: Client, email: str, password: str) -> bool:
    answer = client.post("/login/", {"username": email, "password": password})
    return answer.status_code == 302


def test_the_right_password_lets_in(client: Client, member: User) -> None:
    assert log_in(client, member.email, PASSWORD)


def test_after_too_many_wrong_tries_an_address_has_to_wait(
    client: Client, member: User, owner: User
) -> None:
    for _ in range(MAX_WRONG_TRIES):
        assert not log_in(client, member.email, "guess")
    assert not log_in(client, member.email.upper(), PASSWORD)
    assert (
        "Too many wrong tries"
        in client.post("/login/", {"username": member.email, "password": PASSWORD}).content.decode()
    )
    assert log_in(client, owner.email, PASSWORD), "others are not kept out"


def test_a_right_password_forgets_the_wrong_tries(client: Client, member: User) -> None:
    for _ in range(2):
        for _ in range(MAX_WRONG_TRIES - 1):
            assert not log_in(client, member.email, "guess")
        assert log_in(client, member.email, PASSWORD)
        client.logout()


def test_what_the_database_holds_of_a_session_lets_nobody_in(client: Client, member: User) -> None:
    assert log_in(client, member.email, PASSWORD)
    cookie = client.cookies["sessionid"].value
    [row] = Session.objects.all()
    assert cookie != row.session_key
    assert client.get("/settings/").status_code == 200
    thief = Client()
    thief.cookies["sessionid"] = row.session_key
    assert thief.get("/settings/").status_code == 302


def test_a_session_ends_when_its_user_logs_out(client: Client, member: User) -> None:
    assert log_in(client, member.email, PASSWORD)
    again = Client()
    again.cookies["sessionid"] = client.cookies["sessionid"].value
    assert again.get("/settings/").status_code == 200
    client.post("/logout/")
    assert again.get("/settings/").status_code == 302
    assert not Session.objects.exists()
