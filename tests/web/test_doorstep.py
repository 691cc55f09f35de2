"""What is answered before anything else looks at a request."""

import pytest
from django.test import Client, override_settings


@override_settings(ALLOWED_HOSTS=["costs.example.org"], SECURE_SSL_REDIRECT=True)
def test_a_supervisor_is_answered_whatever_name_and_scheme_people_use() -> None:
    answer = Client().get("/health", HTTP_HOST="10.1.2.3:8000")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


@pytest.mark.django_db
def test_a_cookie_that_no_browser_sends_is_refused_in_words() -> None:
    client = Client()
    client.cookies["sessionid"] = "\x00aaaaaaaa"
    answer = client.get("/login/")
    assert answer.status_code == 400
    assert b"NUL" in answer.content
