from __future__ import annotations

from django.test import Client
from django.urls import reverse

from costwatch.accounts.models import ApiToken, AuditEvent, IngestKey, Organization
from tests.factories import TeamFactory, ingest_key


def test_an_ingest_key_is_shown_once(organization: Organization, owner_client: Client) -> None:
    team = TeamFactory(organization=organization, name="Search")
    answer = owner_client.post(
        reverse("settings-create-key"), {"name": "shop", "team": team.pk, "environment": "prod"}
    )
    key = IngestKey.objects.get()
    secret = answer.context["secret"]
    assert secret.startswith("cwk_")
    assert bytes(key.secret_hash) == IngestKey.hash_of(secret)
    assert (key.team, key.environment) == (team, "prod")
    assert secret in answer.content.decode()
    assert "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf\n" in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert secret not in owner_client.get(reverse("settings")).content.decode()
    assert AuditEvent.objects.get().action == "ingest_key.created"
    assert secret not in str(AuditEvent.objects.values_list("details", "target").get())


def test_an_api_token_acts_for_whom_made_it(
    organization: Organization, owner_client: Client
) -> None:
    answer = owner_client.post(reverse("settings-create-token"), {"name": "export"})
    secret = answer.context["secret"]
    reader = Client(headers={"Authorization": f"Bearer {secret}"})
    assert reader.get("/api/v1/costs").status_code == 200
    owner_client.post(reverse("settings-revoke-token", args=[ApiToken.objects.get().pk]))
    refused = reader.get("/api/v1/costs")
    assert refused.status_code == 401
    assert "was revoked" in refused.json()["detail"]


def test_revoking_twice_is_recorded_once(organization: Organization, owner_client: Client) -> None:
    key = ingest_key(organization)
    for _ in range(2):
        owner_client.post(reverse("settings-revoke-key", args=[key.pk]))
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert [event.action for event in AuditEvent.objects.all()] == ["ingest_key.revoked"]


def test_what_is_revoked_comes_last(organization: Organization, owner_client: Client) -> None:
    keys = [ingest_key(organization) for _ in range(3)]
    owner_client.post(reverse("settings-revoke-key", args=[keys[2].pk]))
    shown = owner_client.get(reverse("settings")).context["keys"]
    assert [key.pk for key in shown] == [keys[1].pk, keys[0].pk, keys[2].pk]


def test_a_key_without_a_name_is_not_made(owner_client: Client) -> None:
    answer = owner_client.post(reverse("settings-create-key"), {"name": ""})
    assert answer.status_code == 400
    assert "Say who or what will use it" in answer.content.decode()
    assert not IngestKey.objects.exists()
