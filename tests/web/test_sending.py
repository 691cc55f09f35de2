"""What a person is told to set, so that telemetry gets here."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import Organization


@pytest.mark.parametrize(
    ("http_url", "grpc_url", "said", "not_said"),
    [
        ("", "", ["http://testserver:4318", "http://testserver:4317"], []),
        ("https://in.example", "https://in.example:4317", ["https://in.example\n", ":4317"], []),
        ("https://in.example", "", ["https://in.example\n"], ["grpc", "4317"]),
        ("", "https://grpc.example", ["http://testserver:4318", "https://grpc.example"], []),
    ],
)
def test_pages_name_the_doors_that_there_are(
    organization: Organization,
    owner_client: Client,
    settings: Any,
    http_url: str,
    grpc_url: str,
    said: list[str],
    not_said: list[str],
) -> None:
    settings.COSTWATCH_OTLP_URL, settings.COSTWATCH_OTLP_GRPC_URL = http_url, grpc_url
    pages = [
        owner_client.get(reverse("sources")).content.decode(),
        owner_client.post(reverse("settings-create-key"), {"name": "shop"}).content.decode(),
    ]
    for page in pages:
        assert [words for words in said if words not in page] == []
        assert [words for words in not_said if words in page] == []
