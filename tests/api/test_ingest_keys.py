from __future__ import annotations

import pytest

from costwatch.accounts.keys import MOST_KEYS
from costwatch.accounts.models import AuditEvent, IngestKey, Organization, User
from tests.api.conftest import Reader, reader_for
from tests.factories import TeamFactory, ingest_key

PATH = "ingest-keys"


@pytest.fixture
def by_owner(owner: User, organization: Organization) -> Reader:
    return reader_for(owner, organization)


def test_a_key_is_made_shown_once_changed_and_revoked(
    organization: Organization, by_owner: Reader
) -> None:
    TeamFactory(organization=organization, name="Search")
    asked = {"name": "shop", "team": "search", "environment": "production"}
    asked |= {"bytes_per_second": 5000, "max_body_bytes": 1000}
    answer = by_owner.client.post(f"/api/v1/{PATH}", asked, content_type="application/json")
    assert answer.status_code == 201
    assert answer["Cache-Control"] == "no-store"
    made, secret = answer.json()["key"], answer.json()["secret"]
    key = IngestKey.objects.get()
    assert bytes(key.secret_hash) == IngestKey.hash_of(secret)
    limits = [
        made[limit] for limit in ("requests_per_second", "bytes_per_second", "max_body_bytes")
    ]
    assert (made["team"], limits) == ("search", [None, 5000, 1000])
    assert by_owner.get(PATH)["results"] == [made]
    assert secret not in str(by_owner.get(f"{PATH}/{key.pk}"))

    status, changed = by_owner.send("patch", f"{PATH}/{key.pk}", {"requests_per_second": 20})
    assert (status, changed["requests_per_second"], changed["team"]) == (200, 20, "search")
    for _ in range(2):
        assert by_owner.send("delete", f"{PATH}/{key.pk}") == (204, None)
    assert by_owner.get(f"{PATH}/{key.pk}")["revoked_at"] is not None
    events = list(AuditEvent.objects.order_by("pk").values_list("action", "details"))
    assert [action for action, _ in events] == [
        "ingest_key.created",
        "ingest_key.changed",
        "ingest_key.revoked",
    ]
    assert events[1][1] == {"requests_per_second": 20}
    assert secret not in str(events)


def test_only_owners_change_keys_and_members_see_them(
    organization: Organization, reader: Reader, finance: Reader
) -> None:
    key = ingest_key(organization)
    for one in (reader, finance):
        assert [row["id"] for row in one.get(PATH)["results"]] == [key.pk]
        assert one.send("post", PATH, {"name": "x"})[0] == 403
        assert one.send("patch", f"{PATH}/{key.pk}", {"name": "x"})[0] == 403
        assert one.send("delete", f"{PATH}/{key.pk}")[0] == 403
    assert IngestKey.objects.get() == key
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x", "team": "elsewhere"}, "team"),
        ({"name": "x", "environment": "e" * 65}, "environment"),
        ({"name": "x", "requests_per_second": 0}, "requests_per_second"),
        ({"name": "x", "bytes_per_second": -1}, "bytes_per_second"),
        ({"name": "x", "max_body_bytes": 2**31}, "max_body_bytes"),
    ],
)
def test_what_can_not_be_a_key_is_refused_by_field(
    organization: Organization, by_owner: Reader, body: dict[str, object], field: str
) -> None:
    TeamFactory(name="elsewhere")
    status, said = by_owner.send("post", PATH, body)
    assert (status, list(said)) == (400, [field])
    assert not IngestKey.objects.exists()


def test_there_are_only_so_many_keys_until_one_is_revoked(
    organization: Organization, by_owner: Reader
) -> None:
    IngestKey.objects.bulk_create(
        IngestKey(organization=organization, name=str(n), secret_hash=IngestKey.hash_of(str(n)))
        for n in range(MOST_KEYS)
    )
    status, said = by_owner.send("post", PATH, {"name": "one more"})
    assert (status, "revoke one" in str(said)) == (400, True)
    by_owner.send("delete", f"{PATH}/{IngestKey.objects.all()[0].pk}")
    assert by_owner.send("post", PATH, {"name": "one more"})[0] == 201
