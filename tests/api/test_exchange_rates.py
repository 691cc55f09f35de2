"""Exchange rates by the API: read, set, previewed; and what lacks one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from costwatch.accounts.models import AuditEvent, Organization
from costwatch.pricing.models import ExchangeRate
from tests.api.conftest import Reader
from tests.factories import NOON

RANKER = {"provider": "in-house", "model": "ranker-7b", "meter": "input_tokens"}
DAY = f"{NOON:%Y-%m-%d}"
BEFORE = "2026-11-15"


@pytest.fixture
def in_euros(furnished: Organization, finance: Reader) -> Reader:
    """The organization reports in dollars; a million tokens of its ranker cost 2 euros."""
    status, made = finance.send("post", "prices", {**RANKER, "amount": "2", "currency": "eur"})
    assert (status, made["currency"]) == (201, "EUR")
    return finance


def ranked(reader: Reader) -> list[dict[str, Any]]:
    found = reader.get("prices")["results"]
    return [one for one in found if (one["model"], one["meter"]) == ("ranker-7b", "input_tokens")]


def test_a_price_without_an_exchange_rate_says_which_one_it_lacks(in_euros: Reader) -> None:
    [use] = ranked(in_euros)
    assert (use["state"], use["cost"], use["currency"]) == ("unknown", None, "USD")
    assert use["price"]["currency"] == "EUR"
    assert Decimal(use["price_cost"]) == Decimal(use["quantity"]) * 2 / 1_000_000
    missing = use["missing_exchange_rate"]
    assert (missing["base"], missing["quote"]) == ("EUR", "USD")
    assert missing["first"] <= missing["last"] == DAY
    unpriced = in_euros.get("ingest-health")["unpriced"]
    [ranker] = [one for one in unpriced if one["model"] == "ranker-7b"]
    assert ranker["lacks_rates_of"] == ["EUR"]


def test_rates_that_are_sent_give_every_sum_its_amount(in_euros: Reader) -> None:
    [was] = in_euros.get("costs")["results"]
    rates = [{"date": BEFORE, "base": "EUR", "quote": "USD", "rate": "1.0842"}]
    status, shown = in_euros.send("post", "exchange-rates?preview=true", rates)
    assert status == 200
    [use] = ranked(in_euros)
    expected = Decimal(use["price_cost"]) * Decimal("1.0842")
    assert Decimal(shown["difference"]) == expected > 0
    assert not ExchangeRate.objects.exists(), "asking changes nothing"

    status, entered = in_euros.send("post", "exchange-rates", rates)
    assert (status, entered) == (201, {"new": 1, "corrected": 0, "unchanged": 0})
    [now] = in_euros.get("costs")["results"]
    assert Decimal(now["cost"]) - Decimal(was["cost"]) == expected
    [use] = ranked(in_euros)
    assert (use["state"], Decimal(use["cost"])) == ("known", expected)
    assert use["missing_exchange_rate"] is None
    page = in_euros.get("exchange-rates")
    [row] = page["results"]
    event = AuditEvent.objects.get(action="exchange_rates.set")
    assert event.actor is not None
    assert (row["date"], row["base"], row["quote"], row["rate"]) == (BEFORE, "EUR", "USD", "1.0842")
    assert (row["source"], row["approved_by"]) == ("API", event.actor.email)
    assert (page["count"], page["next_page"]) == (1, None)


def test_a_rate_of_the_other_direction_is_asked_about(in_euros: Reader) -> None:
    in_euros.send("post", "exchange-rates", [{"date": BEFORE, "base": "EUR", "rate": "1.9"}])
    turned = [{"date": DAY, "base": "EUR", "rate": "0.5263"}]
    _, shown = in_euros.send("post", "exchange-rates?preview=true", turned)
    assert "1 EUR = 0.5263 USD, where 1.9 holds now" in shown["warning"]
    _, shown = in_euros.send("post", "exchange-rates?preview=true", [{**turned[0], "rate": "1.91"}])
    assert shown["warning"] is None


def test_rates_sent_twice_with_one_key_are_set_once(in_euros: Reader) -> None:
    rates = [{"date": DAY, "base": "EUR", "rate": "1.1"}]
    answers = [
        in_euros.client.post(
            "/api/v1/exchange-rates",
            rates,
            content_type="application/json",
            headers={"Idempotency-Key": "k"},
        ).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1] == {"new": 1, "corrected": 0, "unchanged": 0}


GOOD = {"date": DAY, "base": "EUR", "rate": "1.1"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rate": 1.1}, "decimal as text"),
        ({"rate": 1}, "decimal as text"),
        ({"rate": "1,1"}, "decimal number"),
        ({"rate": "0"}, "above zero"),
        ({"rate": "NaN"}, "above zero"),
        ({"rate": "1.0000000000001"}, "12 after it"),
        ({"rate": "9" * 5000}, "no more than 40"),
        ({"rate": "1\0"}, "Null characters"),
        ({"date": "2026-11-31"}, "wrong format"),
        ({"date": "0001-01-01"}, "a year from 2000"),
        ({"base": "USD"}, "needs no rate"),
        ({"base": "€"}, "three letters"),
        ({"quote": "GBP"}, "not turned around"),
    ],
)
def test_what_is_no_rate_is_refused_with_all_that_came_with_it(
    organization: Organization, finance: Reader, wrong: dict[str, object], said: str
) -> None:
    for path in ("exchange-rates", "exchange-rates?preview=true"):
        status, answer = finance.send("post", path, [GOOD, {**GOOD, "date": BEFORE, **wrong}])
        assert status == 400
        assert said in str(answer)
        assert list(answer) == ["1"], "only what is wrong is complained about, by its place"
    assert not ExchangeRate.objects.exists()


@pytest.mark.parametrize("body", [[], {}, GOOD, [[]], ["x"], [GOOD, GOOD], [GOOD] * 10_001])
def test_a_body_has_bounds(organization: Organization, finance: Reader, body: object) -> None:
    for path in ("exchange-rates", "exchange-rates?preview=true"):
        assert finance.send("post", path, body)[0] == 400
    assert not ExchangeRate.objects.exists()


def test_members_read_rates_and_do_not_set_them(
    organization: Organization, reader: Reader, finance: Reader
) -> None:
    assert finance.send("post", "exchange-rates", [GOOD])[0] == 201
    asked = {"start": "2026-11-01", "end": "2026-12-01"}
    assert len(reader.get("exchange-rates", **asked)["results"]) == 1
    for path in ("exchange-rates", "exchange-rates?preview=true"):
        assert reader.send("post", path, [GOOD])[0] == 403


def test_a_list_of_rates_has_pages(organization: Organization, finance: Reader) -> None:
    rates = [{**GOOD, "date": f"2026-11-{day:02}"} for day in range(1, 6)]
    assert finance.send("post", "exchange-rates", rates)[0] == 201
    asked = {"start": "2026-11-01", "end": "2026-12-01", "limit": 2}
    first = finance.get("exchange-rates", **asked)
    assert (len(first["results"]), first["count"], first["next_page"]) == (2, 5, 2)
    last = finance.get("exchange-rates", **asked, page=3)
    assert [row["date"] for row in last["results"]] == ["2026-11-05"]
    assert last["next_page"] is None
    assert finance.get("exchange-rates", **asked, page=4)["results"] == []
