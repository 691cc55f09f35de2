"""Prices by the API: what is used at which one, setting one, and what that would change."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.pricing.models import Price, PriceBook
from tests.api.conftest import Reader

RANKER = {"provider": "in-house", "model": "ranker-7b"}


def unpriced(reader: Reader) -> list[dict[str, Any]]:
    found = reader.get("prices")["results"]
    return [one for one in found if one["state"] == "unknown"]


def test_what_has_no_price_gets_one_and_every_sum_has_it(
    furnished: Organization, finance: Reader
) -> None:
    before = unpriced(finance)
    assert {one["meter"] for one in before} == {"input_tokens", "output_tokens"}
    assert {(one["provider"], one["model"], one["cost"]) for one in before} == {
        ("in-house", "ranker-7b", None)
    }
    asked = {**RANKER, "meter": "input_tokens", "amount": "2"}
    status, shown = finance.send("post", "prices?preview=true", asked)
    assert status == 200
    expected = sum(
        Decimal(one["quantity"]) for one in before if one["meter"] == "input_tokens"
    ) * Decimal("0.000002")
    assert Decimal(shown["difference"]) == expected > 0
    assert {row["team"] for row in shown["results"]} == {"Search"}
    assert len(unpriced(finance)) == 2, "asking changes nothing"

    [was] = finance.get("costs")["results"]
    status, made = finance.send("post", "prices", asked)
    assert status == 201
    assert (made["amount"], made["per"], made["kind"]) == ("2", "1,000,000 tokens", "contracted")
    [now] = finance.get("costs")["results"]
    assert Decimal(now["cost"]) - Decimal(was["cost"]) == expected
    assert [one["meter"] for one in unpriced(finance)] == ["output_tokens"]
    event = AuditEvent.objects.get(action="price.set", target__startswith="in-house/ranker-7b")
    assert event.actor is not None
    assert made["approved_by"] == event.actor.email


def test_zero_is_free_and_a_devices_price_is_per_hour(
    furnished: Organization, finance: Reader
) -> None:
    status, _ = finance.send("post", "prices", {**RANKER, "meter": "output_tokens", "amount": "0"})
    assert status == 201
    free = [one for one in finance.get("prices")["results"] if one["state"] == "free"]
    assert [(one["model"], one["cost"]) for one in free] == [
        ("ranker-7b", "0.00000000000000000000")
    ]
    status, made = finance.send("post", "prices", {"device_type": "GB300", "amount": "9.5"})
    assert (status, made["per"]) == (201, "device-hour")


def test_a_price_sent_twice_with_one_key_is_set_once(
    furnished: Organization, finance: Reader
) -> None:
    asked = {**RANKER, "meter": "input_tokens", "amount": "2"}
    answers = [
        finance.client.post(
            "/api/v1/prices",
            asked,
            content_type="application/json",
            headers={"Idempotency-Key": "k"},
        ).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert AuditEvent.objects.filter(action="price.set", target__contains="ranker").count() == 1


def test_a_price_that_was_typed_for_another_unit_is_asked_about(
    organization: Organization, finance: Reader
) -> None:
    book = PriceBook.objects.create(kind="list", name="catalogue")
    Price.objects.create(
        book=book, provider="openai", model="gpt-4o", meter="output_tokens",
        unit_price=Decimal(10), unit_quantity=1_000_000, currency="USD", source="test",
    )  # fmt: skip
    asked = {"provider": "openai", "model": "gpt-4o", "meter": "output_tokens"}
    _, shown = finance.send("post", "prices?preview=true", {**asked, "amount": "0.01"})
    assert "10 USD per 1,000,000 tokens" in shown["warning"]
    _, shown = finance.send("post", "prices?preview=true", {**asked, "amount": "9"})
    assert shown["warning"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**RANKER, "meter": "input_tokens"}, "amount"),
        ({**RANKER, "meter": "input_tokens", "amount": "-1"}, "amount"),
        ({**RANKER, "meter": "device_ns", "amount": "1"}, "meter"),
        ({**RANKER, "amount": "1"}, "non_field_errors"),
        ({**RANKER, "meter": "input_tokens", "device_type": "x", "amount": "1"}, "non_field_errors"),
        ({"device_type": "x", "service_tier": "flex", "amount": "1"}, "non_field_errors"),
        ({"device_type": "x", "amount": "1", "valid_from": "2026-11-23T09:30"}, "valid_from"),
        ({"device_type": "x", "amount": "1", "valid_from": "0001-01-01T00:00+14:00"}, "valid_from"),
        (
            {"device_type": "x", "amount": "1", "valid_from": "2026-11-23", "valid_until": "2026-11-23"},
            "valid_until",
        ),
        ({"device_type": "x", "amount": "1", "currency": "E1R"}, "currency"),
        ({"device_type": "x", "amount": "1", "currency": "EURO"}, "currency"),
        ({"device_type": "x\0", "amount": "1"}, "device_type"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_price_is_refused_by_field(
    organization: Organization, finance: Reader, body: dict[str, object], field: str
) -> None:
    for path in ("prices", "prices?preview=true"):
        status, said = finance.send("post", path, body)
        assert (status, list(said)) == (400, [field])
    assert not Price.objects.exists()


def test_members_read_prices_and_do_not_set_them(
    furnished: Organization, reader: Reader, finance: Reader
) -> None:
    assert reader.get("prices") == finance.get("prices")
    asked = {**RANKER, "meter": "input_tokens", "amount": "2"}
    for path in ("prices", "prices?preview=true"):
        assert reader.send("post", path, asked)[0] == 403
